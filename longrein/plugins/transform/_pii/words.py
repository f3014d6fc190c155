"""Words that stand before or after personal data, and the names that rules know."""

# Chinese surnames, without those that are words more often: 和 于 时 常 方 成 万 安 向 白 高 …
SURNAMES = (
    "王李张刘陈杨赵黄周吴徐孙胡朱林何郭罗梁宋郑谢韩唐冯董萧程曹袁邓许傅沈曾彭吕苏卢蒋蔡贾丁魏薛叶阎余潘杜戴夏钟汪田"
    "任姜范姚谭廖邹熊陆郝孔崔康毛邱秦江顾侯邵孟龙段雷钱汤尹黎贺赖龚樊兰殷施洪翟颜倪严牛芦章鲁俞聂焦耿关葛温肖马高"
)
COMPOUND = "欧阳|上官|司马|诸葛|东方|皇甫|尉迟|公孙|慕容|令狐|长孙|宇文|司徒|夏侯|端木|南宫"
# Given names of English texts that are hardly words.
GIVEN = (
    "Aaron Abigail Adam Adrian Agnes Aidan Alan Albert Alex Alexander Alexandra Alexis Alfred Alice Alison Allison "
    "Alyssa Amanda Amelia Amy Ana Andrea Andrew Angela Anita Ann Anna Anne Annie Anthony Antonio Arthur Ashley "
    "Audrey Barbara Benjamin Bernard Beth Betty Beverly Brandon Brenda Brett Brian Bruce Bryan Caleb Cameron Carl "
    "Carla Carlos Carmen Carol Caroline Catherine Cathy Charles Charlotte Cheryl Chloe Chris Christian Christina "
    "Christine Christopher Cindy Claire Clara Colin Connie Craig Crystal Cynthia Daniel Danielle David Deborah "
    "Debra Denise Dennis Derek Diana Diane Donald Donna Doris Dorothy Douglas Dylan Edward Edwin Eileen Elaine "
    "Eleanor Elizabeth Ella Ellen Emily Emma Eric Erica Erin Ethan Eugene Eva Evelyn Felix Fiona Florence Frances "
    "Francis Frank Fred Frederick Gabriel Gary George Gerald Gloria Gordon Greg Gregory Hannah Harold Harriet Harry "
    "Hazel Heather Hector Heidi Helen Henry Herbert Howard Hugh Ian Irene Isaac Isabel Isabella Ivan Jacob "
    "Jacqueline James Jamie Jane Janet Janice Jason Jean Jeff Jeffrey Jennifer Jenny Jeremy Jerome Jerry Jesse "
    "Jessica Jessie Jill Jim Joan Joanna Joanne Joe Joel John Johnny Jon Jonathan Jose Joseph Joshua Joyce Juan "
    "Judith Judy Julia Julian Julie Justin Karen Karl Katherine Kathleen Kathryn Kathy Katie Keith Kelly Ken "
    "Kenneth Kevin Kim Kimberly Kristen Kyle Larry Laura Lauren Lawrence Leo Leonard Leslie Lewis Lillian Linda "
    "Lisa Logan Lois Lori Louis Louise Lucas Lucy Luis Luke Lydia Lynn Madison Marcus Margaret Maria Marie Marilyn "
    "Mario Marion Marjorie Marsha Martha Martin Marvin Mary Mason Matthew Maureen Megan Melanie Melissa Michael "
    "Michelle Miguel Mike Mildred Monica Nancy Natalie Nathan Nicholas Nicole Noah Nora Norma Norman Oliver Olivia "
    "Oscar Pamela Patricia Patrick Paul Paula Pauline Peggy Pedro Peter Philip Phillip Phyllis Rachel Ralph Raymond "
    "Rebecca Ricardo Richard Rita Robert Roberta Roger Roland Ronald Rosemary Roy Russell Ruth Ryan Sally Samantha "
    "Samuel Sandra Sara Sarah Scott Sean Sharon Sheila Shirley Simon Sofia Sophia Sophie Stacy Stanley Stella "
    "Stephanie Stephen Steve Steven Stuart Susan Suzanne Sylvia Tamara Tammy Tara Ted Teresa Terri Thelma Theodore "
    "Theresa Thomas Tiffany Tim Timothy Tina Todd Tom Tony Tracy Travis Tyler Valerie Vanessa Vera Veronica Victor "
    "Victoria Vincent Virginia Vivian Walter Wanda Wayne Wendy Wesley William Yvonne Zachary Zoe"
)
PROVINCES = (
    "北京|天津|上海|重庆|河北|山西|辽宁|吉林|黑龙江|江苏|浙江|安徽|福建|江西|山东|河南|湖北|湖南|广东|海南|四川|贵州|云南|陕西|甘肃"
    "|青海|台湾|内蒙古|广西|西藏|宁夏|新疆|香港|澳门"
)
MONTHS = "(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Sept|Oct|Nov|Dec)[a-z]{0,6}"
STREETS = (
    "Street|St|Avenue|Ave|Road|Rd|Boulevard|Blvd|Lane|Ln|Drive|Dr|Court|Ct|Place|Pl|Square|Sq|Terrace|Ter|Highway|Hwy"
    "|Parkway|Pkwy|Circle|Cir|Way|Trail|Alley|Crescent|Close|Grove|Row|Broadway"
)
PHONE = (
    r"\b(?:tele)?phones?\b|\btel\b|\bmobile\b|\bcell\b|\bcall(?:ed|ing)?\b|\bfax\b|\bdial\b|\bwhatsapp\b|\bsms\b"
    r"|\btext me\b|\breach(?:ed)?\b|\bcontact\b|\banswer(?:ing)?\b|\bmessages?\b|\bdesk\b"
    r"|电话|手机|联系方式|拨打|致电|传真|座机"
)
BIRTH = r"\bborn\b|\bbirth\b|\bbirthday\b|\bbirthdate\b|\bd\.?o\.?b\b|出生日期|出生年月日?|生日|出生于|生于"
NAMED = (
    "姓名|名字|联系人|收件人|收货人|寄件人|户名|开户人|持卡人|负责人|经办人|申请人|法定代表人|法人代表|原告|被告|委托人|患者"
    "|投保人|被保险人|我叫|名叫|他叫|她叫|我是"
)
HONORIFICS = "先生|女士|小姐|同学|老师|医生|教授|经理|律师|师傅|阿姨|叔叔|大夫|护士|主任|博士|总监"
# What stand-ins are made of.
FAMILY = (
    "Adams Allen Anderson Bailey Baker Barnes Bell Bennett Brooks Brown Butler Campbell Carter Clark Coleman "
    "Collins Cook Cooper Cox Davis Edwards Evans Fisher Foster Gray Green Griffin Hall Harris Hayes Henderson "
    "Hill Hughes Jackson Jenkins Johnson Jones Kelly King Lewis Long Martin Miller Mitchell Moore Morgan Morris "
    "Murphy Myers Nelson Parker Perry Peterson Phillips Powell Price Reed Reynolds Richardson Roberts Robinson "
    "Rogers Ross Russell Sanders Scott Simmons Smith Stewart Sullivan Taylor Thomas Thompson Turner Walker Ward "
    "Watson White Williams Wilson Wood Wright"
)
HAN_GIVEN = "伟芳娜敏静丽强磊军洋勇艳杰娟涛明超霞平刚玲桂英华梅鑫波斌宇浩凯健俊帆雪倩琳欣怡晨曦雨佳嘉文博志建国海林峰"
