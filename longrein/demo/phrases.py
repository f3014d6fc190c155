"""What the demo's customers say: [a|b] is a choice, {slot} one of SLOTS; a bare a|b|c is a list. Our own words."""

OPENERS = {
    "en": ("hi,|hello,|hey there,|good morning,|excuse me,|hi team,|quick question:|please help,|ok so|hello again,"),
    "zh": ("你好，|您好，|请问|客服在吗？|麻烦问下，|在吗，|亲，|早上好，|打扰一下，|急急急，"),
}
CONTEXTS = {
    "en": [
        "i [bought|ordered|got] [a|this] {product} {when}.",
        "it is about order {order}.",
        "order number {order}, the {product}.",
        "my {product} order from {when}.",
        "i am in {city}.",
        "i have been a customer for [two|three|five] years.",
        "this is for my [sister|office|mother|son].",
    ],
    "zh": [
        "我{when}[买了|订了|下单了][一个|一件]{product}。",
        "订单号{order}。",
        "订单{order}，{product}。",
        "我在{city}。",
        "我是[两|三|五]年的老客户了。",
        "这是给[我妈|公司|孩子|朋友]买的。",
        "{when}买的{product}。",
    ],
}
# Sentences that name another matter, so that one word alone does not give the answer away.
DISTRACTORS = {
    "en": [
        "i do not want [a refund|my money back], but",
        "i already [reset my password|paid], however",
        "the courier was [fast|friendly] and the invoice was fine, but",
        "no need to exchange anything, just tell me this:",
        "last time a coupon [worked|helped], this time",
        "do not cancel anything, only",
        "the address is right and the payment went through, still",
    ],
    "zh": [
        "我不是要退款，",
        "发票已经收到了，不过",
        "密码我已经改好了，现在",
        "不用换货，只想说",
        "上次的优惠券用得挺好，这次",
        "先别取消订单，",
        "地址没问题，钱也付了，但是",
    ],
}
# Another request named beside the one that counts, which comes last; # stands for it.
QUOTES = {
    "en": [
        "last month i asked: # that is solved. now:",
        "my friend wrote to you: # my own question is:",
        "the bot thought i meant: # no, i mean:",
        "this is not about: # it is about this:",
    ],
    "zh": [
        "上次问的是：#，已经解决了。这次：",
        "我朋友问过：#。我的问题是：",
        "机器人以为我说：#，不是的，我想说：",
        "不是要问：#，而是：",
    ],
}
CLOSERS = {
    "en": (
        "thanks|thank you!|please advise|please help|asap please|let me know|cheers|waiting for your reply|"
        "it is rather urgent"
    ),
    "zh": "谢谢|多谢！|麻烦尽快|等你们回复|在线等|拜托了|辛苦了|比较急",
}
SLOTS = {
    "en": {
        "product": (
            "kettle|blue jacket|desk lamp|phone case|rice cooker|pair of sneakers|backpack|headset|"
            "coffee grinder|yoga mat|wool scarf|water bottle|keyboard|toaster|tent|office chair|camera strap|"
            "picture frame|hair dryer|puzzle"
        ),
        "when": "yesterday|last week|on monday|two days ago|this morning|on the 3rd|last month|ten days ago",
        "city": "leeds|austin|toronto|dublin|singapore|portland|perth|oslo",
        "size": "s|m|l|xl|38|42",
        "colour": "black|green|white|red|grey",
        "bank": "visa|mastercard|paypal|apple pay",
        "days": "three days|a week|two weeks|five days|ages",
    },
    "zh": {
        "product": (
            "水壶|蓝色外套|台灯|手机壳|电饭煲|运动鞋|双肩包|耳机|咖啡机|瑜伽垫|"
            "羊毛围巾|保温杯|键盘|烤箱|帐篷|办公椅|相机包|相框|吹风机|拼图"
        ),
        "when": "昨天|上周|周一|前天|今天早上|3号|上个月|十天前",
        "city": "杭州|成都|广州|西安|武汉|青岛|沈阳|昆明",
        "size": "S码|M码|L码|XL码|38码|42码",
        "colour": "黑色|绿色|白色|红色|灰色",
        "bank": "微信|支付宝|银行卡|花呗",
        "days": "三天|一个星期|两周|五天|好久",
    },
}
# intent -> (English requests, Chinese requests, English reply, Chinese reply)
INTENTS: dict[str, tuple[list[str], list[str], str, str]] = {
    "refund": (
        [
            "i [want|would like|need] [a refund|my money back] for the {product}",
            "[how|where] do i [get|claim|ask for] a refund",
            "please [return|send back] the money for my {product}",
            "the {product} is not for me, [refund it|give me my money back] please",
            "when will [the refund|my money] [arrive|be on my card] for the returned {product}",
            "i sent the {product} back {when} and still [have no refund|wait for the money]",
            "can you [reimburse|refund] [me|the full price]",
        ],
        [
            "我[想|要][退款|退钱]",
            "{product}[不想要了|不合适]，[怎么退款|能退钱吗]",
            "[钱|退款]什么时候[到账|退回来]",
            "{when}退回去的{product}，[退款还没收到|钱还没退]",
            "申请[退货退款|全额退款][怎么操作|在哪里]",
            "能不能把{product}的钱[退给我|还我]",
        ],
        "I have started the refund; the money is back within five working days.",
        "已为您发起退款，五个工作日内到账。",
    ),
    "order_status": (
        [
            "where is my [order|parcel|package] [now|]",
            "can you [check|tell me] the status of [my order|order {order}]",
            "has [my {product}|order {order}] [shipped|been sent|left the warehouse] yet",
            "[is there|do you have] a tracking number for the {product}",
            "what is happening with order {order}",
            "i would like to [track|follow] my {product}",
        ],
        [
            "我的[订单|包裹|快递][到哪了|现在在哪里]",
            "[查一下|帮我看看]订单{order}的[状态|物流]",
            "{product}[发货了吗|寄出来没有]",
            "[快递单号|物流单号]是多少",
            "想[跟踪|查询]一下{product}的物流",
            "订单{order}现在什么情况",
        ],
        "Your order is on its way; the tracking link is in your messages.",
        "您的订单正在运输中，物流链接已发送给您。",
    ),
    "cancel_order": (
        [
            "please cancel [my order|order {order}|the {product}]",
            "i [changed my mind|ordered by mistake], [cancel it|stop the order] please",
            "can i [still|] [cancel|call off] the order before it ships",
            "[stop|do not send] the {product}, i no longer need it",
            "i ordered the {product} twice, [drop|cancel] one of them",
        ],
        [
            "[帮我|请][取消订单|把订单{order}取消]",
            "[拍错了|下错单了]，[取消一下|不要发货]",
            "还没发货的{product}[能取消吗|可以取消不]",
            "{product}不要了，[别发了|取消吧]",
            "重复下单了，[取消其中一个|撤掉一单]",
        ],
        "The order is cancelled and nothing will be charged.",
        "订单已取消，不会扣款。",
    ),
    "change_address": (
        [
            "i need to [change|update|correct] the [delivery|shipping] address",
            "i [moved|have moved] to {city}, [can you|please] [send the {product} there|update my address]",
            "the address on order {order} is [wrong|old|not complete]",
            "[ship|deliver] the {product} to my office [instead|] and not to my home",
            "i typed the wrong [street|house number|postcode] for order {order}",
        ],
        [
            "[想|要][改一下|修改][收货地址|地址]",
            "我搬到{city}了，[地址能改吗|帮我更新地址]",
            "订单{order}的地址[写错了|不对|是旧的]",
            "{product}[寄到公司|送到单位]可以吗，不要寄家里",
            "[门牌号|街道|邮编]填错了，[怎么改|帮忙改下]",
        ],
        "The new address is saved and the parcel goes there.",
        "新地址已保存，包裹将寄往新地址。",
    ),
    "invoice": (
        [
            "[can i|i need to] [get|have] an invoice for order {order}",
            "please [send|email] me the [invoice|receipt|vat invoice] for the {product}",
            "the [invoice|receipt] [is missing|was not in the box]",
            "my company name is wrong on the invoice",
            "where can i download the [bill|invoice|receipt]",
        ],
        [
            "[能开发票吗|怎么开发票]",
            "订单{order}的发票[发我一下|什么时候开]",
            "发票[抬头|税号][写错了|要改]",
            "[电子发票|增值税发票]在哪里[下载|申请]",
            "{product}的盒子里没有[发票|收据]",
        ],
        "The invoice is in your mailbox.",
        "发票已发送到您的邮箱。",
    ),
    "late_delivery": (
        [
            "my {product} [should have been here|was due] {when} and [is not here|nothing came]",
            "the delivery is [late|delayed] by {days}",
            "i have been waiting {days} for the {product}, [this is too slow|why so long]",
            "[why|how come] the parcel has not moved for {days}",
            "you promised the {product} for {when}, it [never came|did not arrive]",
        ],
        [
            "{product}说好{when}到，[到现在都没到|还没收到]",
            "都{days}了，[快递怎么还没来|太慢了吧]",
            "物流{days}没[更新|动]了",
            "[配送|发货]晚了{days}，[怎么回事|什么原因]",
            "等了{days}还没等到{product}",
        ],
        "I am sorry for the delay; the courier has been asked to hurry.",
        "很抱歉延误了，我们已催促快递。",
    ),
    "damaged_item": (
        [
            "the {product} [arrived|came] [broken|cracked|scratched|damaged]",
            "there is a [crack|hole|dent] in the {product} [you sent|]",
            "the box was [crushed|wet|torn] and the {product} is [broken|unusable]",
            "i opened the parcel and the {product} was [in pieces|smashed]",
            "the screen of the {product} has a [scratch|crack], straight from the box",
        ],
        [
            "收到的{product}[坏了|碎了|有划痕|破损]",
            "{product}上有[一个洞|裂缝|凹痕]",
            "箱子[压扁了|湿了|破了]，{product}也[坏了|不能用]",
            "一打开{product}就是[碎的|裂的]",
            "刚拆封的{product}[表面刮花了|摔坏了]",
        ],
        "I am sorry; a photo of the damage is all we need to send a new one.",
        "非常抱歉，请发一张破损照片，我们为您补发。",
    ),
    "wrong_item": (
        [
            "i [ordered|asked for] a {product} and [got|received] a {product2}",
            "you sent [the wrong {product}|somebody else's parcel]",
            "this is not what i ordered, i [got|have] a {product2} here",
            "the {product} is {colour}, [i ordered|it should be] {colour2}",
            "one item is missing and a {product2} is in the box instead",
        ],
        [
            "我[买的|订的]是{product}，[收到的是|发来的是]{product2}",
            "你们[发错货了|寄错了]",
            "这不是我买的东西，[里面是|怎么是]{product2}",
            "要的是{colour}，[来的是|发成了]{colour2}",
            "少了一件，[多了个|却有个]{product2}",
        ],
        "I am sorry; the right item leaves today, and the courier takes the other one back.",
        "很抱歉发错了，今天补发正确的商品，错的由快递取回。",
    ),
    "exchange": (
        [
            "can i [exchange|swap] the {product} for [size {size}|a {colour} one]",
            "the {product} is too [small|large|tight], i need [size {size}|another size]",
            "i would like [a different colour|the {colour} version] instead of this {product}",
            "how do i [exchange|swap] [an item|the {product}]",
            "{size} does not fit, [please send|do you exchange for] {size2}",
        ],
        [
            "能[换成|换个]{size}吗",
            "{product}[太小了|太大了|偏紧]，[想换|换]{size}",
            "想[换个颜色|换{colour}的]",
            "[怎么|如何]换货",
            "{size}不合身，[换|改成]{size2}行吗",
        ],
        "The exchange is booked; hand the old one to the courier.",
        "已登记换货，请把原商品交给快递员。",
    ),
    "payment_failed": (
        [
            "my [payment|{bank} payment] [failed|was declined|did not go through]",
            "i [cannot|am unable to] pay [with {bank}|at checkout]",
            "i was charged [twice|two times] for [the {product}|one order]",
            "the checkout [shows an error|hangs] when i pay [with {bank}|]",
            "money left my account but the order says [unpaid|not paid]",
        ],
        [
            "[付款|{bank}支付][失败|不成功]",
            "{bank}[付不了钱|用不了]，[一直报错|怎么办]",
            "[扣了两次钱|重复扣款]",
            "结账的时候[页面卡住|显示错误]",
            "钱扣了，订单还[显示未付款|是待支付]",
        ],
        "The payment was not taken; please try once more or use another card.",
        "款项未扣成功，请重试或更换支付方式。",
    ),
    "coupon": (
        [
            "my [coupon|discount code|voucher] [does not work|is not accepted|says expired]",
            "[how|where] do i [use|enter] the [coupon|promo code]",
            "i forgot to [use|apply] the [voucher|discount code], can you add it to order {order}",
            "is there [a discount|any promotion] on the {product} [this week|today|]",
            "the [10|15|20] percent code [was not applied|did nothing]",
        ],
        [
            "优惠券[用不了|不能用|显示过期]",
            "[优惠码|折扣码]在哪里[输入|填]",
            "忘记用[优惠券|红包]了，[能补吗|可以加到订单{order}吗]",
            "{product}[有活动吗|打折吗]",
            "满减[没减|没生效]",
        ],
        "The code works again; enter it at checkout.",
        "优惠码已恢复，结账时输入即可。",
    ),
    "reset_password": (
        [
            "i [forgot|lost] my password",
            "i [cannot|can not] [log in|sign in] [any more|to my account]",
            "the [reset|login] [link|code] [never arrives|does not work]",
            "how do i [change|reset] my password",
            "my account is locked after too many [tries|attempts]",
        ],
        [
            "[忘记密码了|密码忘了]",
            "[登不上去|登录不了]账号",
            "[验证码|重置链接][收不到|打不开]",
            "怎么[改密码|重置密码]",
            "输错太多次，账号[被锁了|锁住了]",
        ],
        "A link to set a new password is on its way.",
        "重置密码的链接已发送。",
    ),
    "delete_account": (
        [
            "please [delete|close|remove] my account",
            "i want [my account|all my data] [deleted|erased]",
            "how can i [unsubscribe|close my account] for good",
            "i do not shop here any more, [erase|delete] my [profile|data]",
            "under privacy law i ask you to [erase|remove] my personal data",
        ],
        [
            "[我要|怎么]注销账号",
            "把我的[账户|个人信息][删掉|删除]",
            "以后不用了，[请注销|帮我销户]",
            "不想再收到[短信|邮件]了，[账号也删掉|直接注销]",
            "根据个人信息保护法，请[删除|清除]我的数据",
        ],
        "Your account is closed and your data is erased within 15 days.",
        "账号已注销，您的数据将在十五天内删除。",
    ),
    "warranty": (
        [
            "is the {product} [still|] under [warranty|guarantee]",
            "the {product} [stopped working|broke down] after [six months|a year], [is that covered|can you repair it]",
            "how long is the [warranty|guarantee] on the {product}",
            "i need a [repair|technician] for my old {product}",
            "the {product} makes a strange noise after {days} of use, [repair|fix] it under warranty",
        ],
        [
            "{product}[还在保修期吗|保修多久]",
            "{product}用了[半年|一年][就坏了|不工作了]，[能修吗|保修吗]",
            "[质保|保修][多长时间|怎么算]",
            "旧的{product}要[维修|修一下]",
            "{product}用了{days}有异响，[保修|返修]怎么弄",
        ],
        "It is covered for two years; a repair is booked.",
        "保修期两年，已为您登记维修。",
    ),
    "in_stock": (
        [
            "[is|when is] the {product} [in stock|available] [again|]",
            "do you [have|sell] the {product} in [size {size}|{colour}]",
            "when will the {colour} {product} be back",
            "the site says sold out, [any|do you have any] {product} left",
            "can i [reserve|pre-order] the {colour} {product}",
        ],
        [
            "{product}[有货吗|还有吗]",
            "{colour}的{product}[什么时候补货|什么时候到货]",
            "有没有{size}的{product}",
            "显示售罄了，[还有库存吗|还会上架吗]",
            "可以[预订|预定]{colour}的{product}吗",
        ],
        "It is in stock again next week; you will get a message.",
        "预计下周补货，到货会通知您。",
    ),
    "human_agent": (
        [
            "[let me|i want to] [speak|talk] to a [human|real person|person]",
            "[connect|transfer] me to [an agent|your colleague|a supervisor]",
            "this bot [does not help|is useless], [give me a person|get me someone]",
            "what is the [phone number|hotline] of your [support|service]",
            "is there [anybody|someone] [real|] i can [call|talk to]",
        ],
        [
            "[转人工|人工客服]",
            "我要[和真人说|找人工]",
            "机器人[听不懂|没用]，[换个人来|转人工吧]",
            "[客服电话|热线][是多少|几点上班]",
            "叫你们[主管|经理]来[说|处理]",
        ],
        "I am passing you to a colleague.",
        "正在为您转接人工客服。",
    ),
    "loyalty_points": (
        [
            "how many [points|bonus points] do i have",
            "my points [for the {product}|from order {order}] are missing",
            "[how|where] can i [use|redeem|spend] my [points|loyalty points]",
            "when do [my|the] points [expire|run out]",
            "i did not get any [points|bonus] for the {product}",
        ],
        [
            "我[有多少|还剩多少]积分",
            "订单{order}的积分[没到账|没给]",
            "积分[怎么用|怎么兑换|能换什么]",
            "积分[什么时候过期|会清零吗]",
            "买{product}[没有积分|积分没加]",
        ],
        "Your points are in your account under Rewards.",
        "积分可在会员中心查看和兑换。",
    ),
    "shipping_cost": (
        [
            "how much is [shipping|delivery] to {city}",
            "is [shipping|delivery] free [for the {product}|to {city}]",
            "from which amount is [delivery|shipping] free",
            "why [did i pay|is there] [so much|a fee] for shipping the {product}",
            "what does express [delivery|shipping] cost",
        ],
        [
            "寄到{city}[运费多少|邮费多少]",
            "{product}[包邮吗|免运费吗]",
            "满多少[包邮|免运费]",
            "[运费|邮费]怎么[这么贵|收这么多]",
            "[加急|次日达]要[多少钱|加多少运费]",
        ],
        "Delivery is free from 50; below that it costs 4.",
        "满五十包邮，不足收运费四元。",
    ),
}
