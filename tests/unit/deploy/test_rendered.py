"""What holds of the manifests as kustomize puts them together, for production above all."""

import ipaddress
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from services.orchestrator.worker.settings import WorkerSettings
from tests.unit.deploy.manifests import (
    DEV,
    GATEWAY,
    K8S,
    PROD,
    SERVERS,
    Document,
    check,
    container,
    prod_settings,
    render,
)

_HOST_MIB = 700
"""A host and its fork server, generously."""
DEPLOYMENTS = (*SERVERS, "worker", GATEWAY)
METADATA = ("169.254.169.254", "168.63.129.16", "192.0.0.192", "100.100.100.200", "fd00:ec2::254")
"""Where clouds serve the secrets of their machines."""


@pytest.fixture(scope="module")
def documents() -> list[Document]:
    return render(PROD)


Named = Callable[[str], dict[str, Document]]


@pytest.fixture
def of_kind(documents: list[Document]) -> Named:
    return lambda kind: {document["metadata"]["name"]: document for document in documents if document["kind"] == kind}


@pytest.fixture
def pods(of_kind: Named) -> dict[str, Document]:
    """The pod templates by the name of what they belong to."""
    return {name: workload["spec"]["template"] for name, workload in (of_kind("Deployment") | of_kind("Job")).items()}


def selected(selector: Document, pods: dict[str, Document]) -> set[str]:
    wanted = selector.get("matchLabels", {}).items()
    return {
        name
        for name, pod in pods.items()
        if wanted <= pod["metadata"]["labels"].items()
        and all(
            rule["operator"] == "In" and pod["metadata"]["labels"].get(rule["key"]) in rule["values"]
            for rule in selector.get("matchExpressions", [])
        )
    }


def secrets_of(pod: Document) -> set[str]:
    found = set()
    for volume in pod["spec"]["volumes"]:
        found |= {volume["secret"]["secretName"]} if "secret" in volume else set()
        for source in volume.get("projected", {}).get("sources", []):
            found |= {source["secret"]["name"]} if "secret" in source else set()
    (only,) = pod["spec"]["containers"]
    found |= {source["secretRef"]["name"] for source in only.get("envFrom", []) if "secretRef" in source}
    for variable in only.get("env", []):
        reference = variable.get("valueFrom", {}).get("secretKeyRef")
        found |= {f"{reference['name']}/{reference['key']}"} if reference else set()
    return found


def test_everything_is_valid(documents: list[Document]) -> None:
    for document in documents:
        check(document)


def test_the_crews_of_a_worker_fit_its_memory(of_kind: Named) -> None:
    worker = container(of_kind("Deployment")["worker"])
    variables = {variable["name"]: variable.get("value", "") for variable in worker["env"]}
    crews = int(variables["COXSWAIN_WORKER_CREW_MEMORY_MIB"]) * WorkerSettings().slots
    assert crews + _HOST_MIB <= int(worker["resources"]["limits"]["memory"].removesuffix("Gi")) * 1024


def test_every_process_is_probed_over_http(of_kind: Named) -> None:
    deployments = of_kind("Deployment")
    assert set(deployments) == set(DEPLOYMENTS)
    for name, deployment in deployments.items():
        only = container(deployment)
        paths = {"startupProbe": "/readyz", "readinessProbe": "/readyz", "livenessProbe": "/livez"}
        for probe, path in paths.items():
            assert only[probe]["httpGet"] == {"path": path, "port": "metrics"}, name


def test_every_pod_is_confined(pods: dict[str, Document]) -> None:
    assert set(pods) == {*DEPLOYMENTS, *(f"migrate-{service}" for service in SERVERS)}
    for name, pod in pods.items():
        spec = pod["spec"]
        assert spec["automountServiceAccountToken"] is False, name
        assert spec["enableServiceLinks"] is False, name
        assert spec["securityContext"]["runAsNonRoot"] is True, name
        assert spec["securityContext"]["runAsUser"] > 0, name
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        (only,) = spec["containers"]
        assert only["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }, name
        assert {"memory"} <= set(only["resources"]["limits"]), name
        assert {"cpu", "memory", "ephemeral-storage"} <= set(only["resources"]["requests"]), name


def test_what_is_written_to_is_a_volume_and_keys_lie_where_they_are_looked_for(pods: dict[str, Document]) -> None:
    settings = prod_settings()
    for name, pod in pods.items():
        (only,) = pod["spec"]["containers"]
        mounts = {mount["mountPath"]: mount for mount in only["volumeMounts"]}
        assert {settings["COXSWAIN_DATA_DIR"], "/tmp"} <= set(mounts), name
        assert {mount["name"] for mount in mounts.values()} == {volume["name"] for volume in pod["spec"]["volumes"]}
        if name in DEPLOYMENTS:
            assert mounts[f"{settings['COXSWAIN_KEYS_DIR']}/services"]["name"] == "keys"
    (auth,) = pods["auth"]["spec"]["containers"]
    values = {variable["name"]: variable.get("value", "") for variable in auth["env"]}
    ring = values["COXSWAIN_AUTH_KEY_RING_FILE"]
    assert ring.rsplit("/", 1)[0] in {mount["mountPath"] for mount in auth["volumeMounts"]}


def test_every_process_holds_its_own_secrets_only(pods: dict[str, Document]) -> None:
    def own(service: str) -> set[str]:
        return database(service) | {f"coxswain-service-key-{service}", "coxswain-tls"}

    def database(service: str) -> set[str]:
        return {f"coxswain-database/{service}", f"coxswain-database/{service}-direct"}

    assert {name: secrets_of(pods[name]) for name in DEPLOYMENTS} == {
        "auth": own("auth") | {"coxswain-key-ring", "coxswain-shared-credentials"},
        "models": own("models"),
        "memory": own("memory"),
        "orchestrator": own("orchestrator"),
        "worker": own("orchestrator"),
        # The orchestrator's database, and a key of its own: it alone of its processes may resolve credentials.
        GATEWAY: database("orchestrator") | {f"coxswain-service-key-{GATEWAY}", "coxswain-tls"},
    }
    for service in SERVERS:
        assert secrets_of(pods[f"migrate-{service}"]) == database(service)


def test_every_deployment_reads_the_settings_whose_change_rolls_it(of_kind: Named, pods: dict[str, Document]) -> None:
    (name,) = of_kind("ConfigMap")
    assert name.startswith("coxswain-settings-")
    assert of_kind("ConfigMap")[name]["data"] == prod_settings()
    for deployment in DEPLOYMENTS:
        (only,) = pods[deployment]["spec"]["containers"]
        # Last, so that no Secret overrides them.
        assert only["envFrom"][-1] == {"configMapRef": {"name": name}}, deployment


def test_selectors_meet_exactly_the_pods_they_are_for(of_kind: Named, pods: dict[str, Document]) -> None:
    for name in DEPLOYMENTS:
        assert selected(of_kind("Deployment")[name]["spec"]["selector"], pods) == {name}
        assert selected(of_kind("PodDisruptionBudget")[name]["spec"]["selector"], pods) == {name}
    assert set(of_kind("Service")) == {*SERVERS, GATEWAY}
    for name, service in of_kind("Service").items():
        assert selected({"matchLabels": service["spec"]["selector"]}, pods) == {name}


def test_internal_ports_are_for_services_alone(of_kind: Named, pods: dict[str, Document]) -> None:
    policies = of_kind("NetworkPolicy")
    assert selected(policies["nobody"]["spec"]["podSelector"], pods) == set(pods)
    assert "ingress" not in policies["nobody"]["spec"]
    allowed = [
        (name, selected(policy["spec"]["podSelector"], pods), rule)
        for name, policy in policies.items()
        for rule in policy["spec"].get("ingress", [])
        if any(port.get("port") == "internal" for port in rule.get("ports", [{"port": "internal"}]))
    ]
    callers = {}
    for _, callees, rule in allowed:
        (source,) = rule["from"]
        # Only pods of this namespace: no namespaceSelector.
        assert set(source) == {"podSelector"}
        callers[frozenset(callees)] = selected(source["podSelector"], pods)
    assert callers == {frozenset(SERVERS): set(DEPLOYMENTS), frozenset({GATEWAY}): {"orchestrator", "worker"}}


def test_executions_have_no_way_out_of_the_installation(of_kind: Named, pods: dict[str, Document]) -> None:
    policy = of_kind("NetworkPolicy")["executions-stay-inside"]["spec"]
    assert "worker" in selected(policy["podSelector"], pods)
    bound_to = {
        name
        for name, other in of_kind("NetworkPolicy").items()
        if "worker" in selected(other["spec"]["podSelector"], pods) and "Egress" in other["spec"]["policyTypes"]
    }
    assert bound_to == {"executions-stay-inside"}
    assert policy["policyTypes"] == ["Egress"]
    for rule in policy["egress"]:
        ports = {port["port"] for port in rule["ports"]}
        if ports == {53}:
            in_cluster, on_node = rule["to"]
            assert in_cluster["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": "kube-system"}
            assert on_node == {"ipBlock": {"cidr": "169.254.20.10/32"}}, "the address of NodeLocal DNSCache, no other"
        elif ports == {5432}:
            databases_inside(rule)
        else:
            (target,) = rule["to"]
            assert (selected(target["podSelector"], pods), ports) == ({*SERVERS, GATEWAY}, {"internal"})


def databases_inside(rule: Document) -> None:
    """Check that a rule about PostgreSQL reaches pods and private networks, and neither the world nor metadata."""
    blocks = [ipaddress.ip_network(target["ipBlock"]["cidr"]) for target in rule["to"] if "ipBlock" in target]
    assert all(block.is_private or str(block) == "100.64.0.0/10" for block in blocks)
    assert [target for target in rule["to"] if "ipBlock" not in target] == [{"namespaceSelector": {}}]
    for metadata in METADATA:
        closed = [name for target in rule["to"] for name in target.get("ipBlock", {}).get("except", [])]
        assert not within(metadata, blocks) or within(metadata, map(ipaddress.ip_network, closed)), metadata


def within(address: str, networks: Iterable[Any]) -> bool:
    found = ipaddress.ip_address(address)
    return any(found.version == network.version and found in network for network in networks)


def test_every_pod_has_a_policy_of_where_it_may_go(of_kind: Named, pods: dict[str, Document]) -> None:
    bound = set[str]()
    for policy in of_kind("NetworkPolicy").values():
        if "Egress" in policy["spec"]["policyTypes"]:
            bound |= selected(policy["spec"]["podSelector"], pods)
    assert set(pods) <= bound


def test_what_calls_out_reaches_the_world_and_none_of_the_networks_inside(
    of_kind: Named, pods: dict[str, Document]
) -> None:
    policy = of_kind("NetworkPolicy")["calls-reach-the-world"]["spec"]
    assert selected(policy["podSelector"], pods) == {GATEWAY, *SERVERS}
    (inside,) = (rule for rule in policy["egress"] if {port["port"] for port in rule.get("ports", [])} == {"internal"})
    assert [selected(target["podSelector"], pods) for target in inside["to"]] == [{GATEWAY, *SERVERS}]
    (world,) = (rule for rule in policy["egress"] if "ports" not in rule)
    blocks = [target["ipBlock"] for target in world["to"]]
    assert {block["cidr"] for block in blocks} == {"0.0.0.0/0", "::/0"}
    closed = [ipaddress.ip_network(network) for block in blocks for network in block["except"]]
    for inside in ("10.1.2.3", "172.31.0.1", "192.168.0.1", "100.64.0.1", "fd00::1", "fe80::1", "fec0::1", *METADATA):
        assert within(inside, closed), inside
    for rule in policy["egress"]:
        if {port["port"] for port in rule.get("ports", [])} == {5432}:
            databases_inside(rule)


def test_probes_meet_ports_and_speak_what_the_listeners_speak(pods: dict[str, Document]) -> None:
    for name in DEPLOYMENTS:
        (only,) = pods[name]["spec"]["containers"]
        ports = {port["name"] for port in only["ports"]}
        assert {"startupProbe", "readinessProbe"} <= set(only)
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            if probe in only:
                assert "grpc" not in only[probe], "Kubernetes' gRPC probes cannot speak TLS"
                asked = only[probe].get("tcpSocket") or only[probe]["httpGet"]
                assert asked["port"] in ports


def test_all_that_serves_and_runs_scales_by_itself_and_never_to_one(of_kind: Named) -> None:
    scalers = of_kind("HorizontalPodAutoscaler")
    assert set(scalers) == set(of_kind("Deployment"))
    for name, deployment in of_kind("Deployment").items():
        scaler = scalers[name]["spec"]
        assert scaler["scaleTargetRef"] == {"apiVersion": "apps/v1", "kind": "Deployment", "name": name}
        # A number here would be set again at each apply.
        assert "replicas" not in deployment["spec"], name
        assert scaler["minReplicas"] >= 2, name
        assert "cpu" in container(deployment)["resources"]["requests"], name
        assert deployment["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0, name


def test_schemas_are_migrated_before_what_reads_them_by_argo_cd_and_anew_at_each_release_by_both(
    of_kind: Named,
) -> None:
    wave = "argocd.argoproj.io/sync-wave"
    for job in of_kind("Job").values():
        notes = job["metadata"]["annotations"]
        assert notes["argocd.argoproj.io/hook"] == "Sync"
        assert notes["argocd.argoproj.io/hook-delete-policy"] == "BeforeHookCreation"
        assert notes["kustomize.toolkit.fluxcd.io/force"] == "enabled"
        # One that is removed by itself would be made anew by Flux, again and again.
        assert "ttlSecondsAfterFinished" not in job["spec"]
        for deployment in of_kind("Deployment").values():
            assert int(notes[wave]) < int(deployment["metadata"]["annotations"][wave])
    # What Jobs need comes before them, in wave 0.
    for kind in ("NetworkPolicy", "PriorityClass", "ConfigMap"):
        assert all(wave not in found["metadata"].get("annotations", {}) for found in of_kind(kind).values())


def test_executions_give_way_to_calls_where_a_node_is_full(of_kind: Named, pods: dict[str, Document]) -> None:
    classes = {name: document["value"] for name, document in of_kind("PriorityClass").items()}
    values = {name: classes[pod["spec"]["priorityClassName"]] for name, pod in pods.items()}
    assert {name for name, value in values.items() if value < max(values.values())} == {"worker"}


def test_the_overlay_for_development_is_one_small_replica_of_each_beside_its_own_postgresql() -> None:
    documents = render(DEV)
    for document in documents:
        check(document)
    kinds = {document["kind"] for document in documents}
    assert not kinds & {"HorizontalPodAutoscaler", "PodDisruptionBudget"}
    deployments = [document for document in documents if document["kind"] == "Deployment"]
    assert {deployment["metadata"]["name"] for deployment in deployments} == set(DEPLOYMENTS)
    for deployment in deployments:
        assert deployment["spec"]["replicas"] == 1
        only = container(deployment)
        assert (only["image"], only["resources"]["requests"]["cpu"]) == (
            f"coxswain-{deployment['metadata']['name']}:dev",
            "50m",
        )
    (postgres,) = (document for document in documents if document["kind"] == "StatefulSet")
    assert container(postgres)["ports"][0]["containerPort"] == 5432


@pytest.fixture(scope="module")
def with_operators(tmp_path_factory: pytest.TempPathFactory) -> list[Document]:
    """Production with all components."""
    directory = tmp_path_factory.mktemp("overlay")

    def listed(*paths: Path) -> str:
        return "".join(f"  - {os.path.relpath(path, directory)}\n" for path in paths)

    components = listed(*(K8S / "components" / name for name in ("monitoring", "keda", "tracing")))
    (directory / "kustomization.yaml").write_text(f"resources:\n{listed(PROD)}components:\n{components}")
    return render(directory)


def test_with_its_operator_prometheus_scrapes_all_that_run_and_none_that_end(
    with_operators: list[Document], pods: dict[str, Document]
) -> None:
    for document in with_operators:
        check(document)
    (monitor,) = (document["spec"] for document in with_operators if document["kind"] == "PodMonitor")
    assert monitor["selector"]["matchLabels"].items() <= pods["auth"]["metadata"]["labels"].items()
    (rule,) = monitor["selector"]["matchExpressions"]
    scraped = {name for name, pod in pods.items() if pod["metadata"]["labels"][rule["key"]] not in rule["values"]}
    assert (rule["operator"], scraped) == ("NotIn", set(DEPLOYMENTS))
    (endpoint,) = monitor["podMetricsEndpoints"]
    for name in DEPLOYMENTS:
        assert endpoint["port"] in {port["name"] for port in pods[name]["spec"]["containers"][0]["ports"]}
    (dashboard,) = (d for d in with_operators if d["metadata"]["name"] == "coxswain-dashboard")
    assert dashboard["metadata"]["labels"]["grafana_dashboard"] == "1"


def test_with_a_collector_every_process_sends_traces_and_may_reach_it(
    with_operators: list[Document], pods: dict[str, Document]
) -> None:
    settings = next(
        d for d in with_operators if d["kind"] == "ConfigMap" and d["metadata"]["name"].startswith("coxswain-settings")
    )
    assert settings["data"]["COXSWAIN_TRACES"] == "otlp"
    host, _, port = settings["data"]["OTEL_EXPORTER_OTLP_ENDPOINT"].removeprefix("http://").rpartition(":")
    (policy,) = (d["spec"] for d in with_operators if d["metadata"]["name"] == "traces-reach-the-collector")
    for name in DEPLOYMENTS:
        assert policy["podSelector"]["matchLabels"].items() <= pods[name]["metadata"]["labels"].items()
    (rule,) = policy["egress"]
    assert rule["ports"] == [{"port": int(port)}]
    (peer,) = rule["to"]
    assert host.endswith(f".{peer['namespaceSelector']['matchLabels']['kubernetes.io/metadata.name']}")


def test_with_keda_each_deployment_has_one_autoscaler(with_operators: list[Document], of_kind: Named) -> None:
    by_cpu = {d["metadata"]["name"] for d in with_operators if d["kind"] == "HorizontalPodAutoscaler"}
    scaled = {d["spec"]["scaleTargetRef"]["name"]: d["spec"] for d in with_operators if d["kind"] == "ScaledObject"}
    assert set(scaled) == {"worker", "orchestrator"}
    assert by_cpu | set(scaled) == set(DEPLOYMENTS)
    assert not by_cpu & set(scaled)
    for name, spec in scaled.items():
        assert spec["minReplicaCount"] == of_kind("HorizontalPodAutoscaler")[name]["spec"]["minReplicas"]
    # The first of the worker's is in hosts.
    assert scaled["worker"]["triggers"][0]["metadata"]["threshold"] == "1"
    (namespace,) = (d["metadata"]["name"] for d in with_operators if d["kind"] == "Namespace")
    for spec in scaled.values():
        for trigger in spec["triggers"]:
            if trigger["type"] == "prometheus":
                assert f'namespace="{namespace}"' in trigger["metadata"]["query"]
