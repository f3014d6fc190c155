"""What runs a packaged release on Kubernetes, plain or by KServe, from the image that `pack` wrote."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from longrein.core.errors import Error
from longrein.core.ledger import Asset
from longrein.models.package.pack import HOME

FORMATS = ("kubernetes", "kserve")
PORT = 8000
# In a private image nobody else can see the tag; a digest can never come to mean another release.
PINNED = re.compile(r"[\w.:-]+(/[\w.-]+)+@sha256:[0-9a-f]{64}")


class _Plain(yaml.SafeDumper):
    """What stands twice is written twice: people edit these files."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def write(release: Asset, to: Path, format: str, *, image: str, trust: str, model_bytes: int) -> dict[str, Any]:
    """Write YAML documents to a new file. image: as pushed, by digest. trust: fingerprint of the key that signed it.

    Errors: `invalid` for an image that is not pinned by its digest, `conflict` when the file is there already.
    """
    if not PINNED.fullmatch(image):
        hint = "skopeo copy oci:FOLDER docker://registry/name:v1 --digestfile d; then --image registry/name@$(cat d)"
        raise Error("invalid", f"--image {image!r} is not an image by its digest, registry/name@sha256:…", hint)
    documents = (kserve if format == "kserve" else kubernetes)(release, _pod(release, image, trust, model_bytes))
    try:
        with to.open("x", encoding="utf-8") as file:
            file.write(f"# {release.ref}: made by `longrein package`; its secret: kubectl create secret generic "
                       f"{name(release)} --from-literal=api-key=lr-…\n")  # fmt: skip
            yaml.dump_all(documents, file, _Plain, sort_keys=False, allow_unicode=True)
    except FileExistsError as error:
        raise Error("conflict", f"{to} is there already", "name a file that is not") from error
    return {"ref": release.ref, "file": str(to), "kinds": [d["kind"] for d in documents], "image": image}


def kubernetes(release: Asset, pod: dict[str, Any]) -> list[dict[str, Any]]:
    """A Deployment with probes, a Service, and what bounds and protects them."""
    labels = _labels(release)
    pods = {"matchLabels": {"app.kubernetes.io/instance": name(release)}}
    template = {"metadata": {"labels": labels}, "spec": pod}
    rolling = {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}}
    deployment = {"replicas": 2, "selector": pods, "strategy": rolling, "template": template}
    scaled = {"apiVersion": "apps/v1", "kind": "Deployment", "name": name(release)}
    busy = {
        "type": "Resource",
        "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 70}},
    }
    ports = [{"name": "http", "port": 80, "targetPort": "http"}]
    allowed = [{"ports": [{"port": PORT, "protocol": "TCP"}]}]
    return [
        _document("apps/v1", "Deployment", release, deployment),
        _document("v1", "Service", release, {"selector": pods["matchLabels"], "ports": ports}),
        _document("policy/v1", "PodDisruptionBudget", release, {"minAvailable": 1, "selector": pods}),
        _document("autoscaling/v2", "HorizontalPodAutoscaler", release,
                  {"scaleTargetRef": scaled, "minReplicas": 2, "maxReplicas": 8, "metrics": [busy]}),
        _document("networking.k8s.io/v1", "NetworkPolicy", release,  # it needs nothing from outside
                  {"podSelector": pods, "policyTypes": ["Ingress", "Egress"], "ingress": allowed, "egress": []}),
    ]  # fmt: skip


def kserve(release: Asset, pod: dict[str, Any]) -> list[dict[str, Any]]:
    """An InferenceService (serving.kserve.io/v1beta1) in raw deployment mode, with a container of our own."""
    pod["containers"][0]["name"] = "kserve-container"  # the name it knows the predictor by
    predictor = {"minReplicas": 1, "maxReplicas": 8, **pod}
    document = _document("serving.kserve.io/v1beta1", "InferenceService", release, {"predictor": predictor})
    document["metadata"]["annotations"] = {"serving.kserve.io/deploymentMode": "RawDeployment"}
    return [document]


def name(release: Asset) -> str:
    """A release's name as Kubernetes allows names (RFC 1123): Chinese and other letters become their code points."""
    plain = "".join(c if c.isascii() and c.isalnum() else "-" if c in "-_." else f"u{ord(c):x}" for c in release.name)
    return plain.lower().strip("-")[:52].strip("-") or "release"


def _document(api: str, kind: str, release: Asset, spec: Mapping[str, Any]) -> dict[str, Any]:
    metadata = {"name": name(release), "labels": _labels(release)}
    return {"apiVersion": api, "kind": kind, "metadata": metadata, "spec": dict(spec)}


def _labels(release: Asset) -> dict[str, str]:
    return {
        "app.kubernetes.io/name": "longrein",
        "app.kubernetes.io/instance": name(release),
        "app.kubernetes.io/version": f"v{release.version}",
    }


def _pod(release: Asset, image: str, trust: str, model_bytes: int) -> dict[str, Any]:
    """One gateway with its engine, as nobody, on a file system it cannot write to but for its own folder."""
    secret = {"secretKeyRef": {"name": name(release), "key": "api-key"}}
    ready = {"httpGet": {"path": "/readyz", "port": "http"}}
    container = {
        "name": "longrein",
        "image": image,
        "env": [{"name": "LONGREIN_TRUST", "value": trust}, {"name": "LONGREIN_ADMIN_KEY", "valueFrom": secret}],
        "ports": [{"name": "http", "containerPort": PORT}],
        "startupProbe": {**ready, "periodSeconds": 2, "failureThreshold": 150},
        "readinessProbe": {**ready, "periodSeconds": 5},
        "livenessProbe": {"httpGet": {"path": "/healthz", "port": "http"}, "periodSeconds": 10},
        "resources": {
            "requests": {"cpu": "1", "memory": _memory(model_bytes)},
            "limits": {"memory": _memory(model_bytes)},
        },
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [{"name": "home", "mountPath": HOME}, {"name": "tmp", "mountPath": "/tmp"}],
    }
    return {
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 65532,
            "fsGroup": 65532,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": 60,
        "containers": [container],
        "volumes": [{"name": "home", "emptyDir": {}}, {"name": "tmp", "emptyDir": {}}],
    }


def _memory(model_bytes: int) -> str:
    """Room for the weights three times over (as read, as loaded, as answers grow) and for the program: a start, to be
    changed by what is measured."""
    return f"{1 + -(-3 * model_bytes // (1 << 30))}Gi"
