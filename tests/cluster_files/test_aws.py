"""cluster.yaml on AWS, as far as moto's server is AWS: what Ray asks for."""

import stat
from pathlib import Path
from typing import Any

import boto3
import click
import pytest
from ray.autoscaler._private.commands import _bootstrap_config
from ray.autoscaler._private.providers import _get_node_provider
from ray.autoscaler.tags import (
    NODE_KIND_HEAD,
    NODE_KIND_WORKER,
    TAG_RAY_LAUNCH_CONFIG,
    TAG_RAY_NODE_KIND,
    TAG_RAY_NODE_NAME,
    TAG_RAY_NODE_STATUS,
    TAG_RAY_USER_NODE_TYPE,
)

from serve.clouds import aws_nodes
from tests.cluster_files.conftest import NETWORK, read_cluster

REGION = "us-east-1"


@pytest.fixture(scope="module")
def resolved(aws: str) -> dict[str, Any]:
    """cluster.yaml as `ray up` has it before it starts the head."""
    aws_nodes.client_cache.cache_clear()  # of another server
    aws_nodes.resource_cache.cache_clear()
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(aws_nodes, "_PROPAGATION_S", 0.0)  # moto knows at once
        return _resolve(read_cluster("cluster.yaml"))


def _resolve(config: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = _bootstrap_config(config, no_config_cache=True)
    return found


@pytest.mark.more
def test_the_cluster_comes_up_type_by_type(resolved: dict[str, Any], home: Path) -> None:
    ec2 = boto3.client("ec2", REGION)
    provider = _get_node_provider(resolved["provider"], resolved["cluster_name"], use_cache=False)
    head_type = resolved["head_node_type"]
    for name, kind in resolved["available_node_types"].items():
        provider.create_node(kind["node_config"], _tags(name, name == head_type), 1)
    nodes = {provider.node_tags(node)[TAG_RAY_USER_NODE_TYPE]: node for node in _live(provider)}
    assert set(nodes) == set(resolved["available_node_types"])
    for name, node in nodes.items():
        (found,) = ec2.describe_instances(InstanceIds=[node])["Reservations"][0]["Instances"]
        _check_instance(name, found, resolved, is_head=name == head_type)
    provider.terminate_nodes(list(nodes.values()))
    assert _live(provider) == []
    key = home / ".ssh" / "murmur.pem"
    for path in (key, home / ".ray" / "auth_token"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600 and path.read_text()


def test_nobody_else_gets_in(resolved: dict[str, Any]) -> None:
    ec2 = boto3.client("ec2", REGION)
    kinds = resolved["available_node_types"].values()
    (group_id,) = {id_ for kind in kinds for id_ in kind["node_config"]["SecurityGroupIds"]}
    assert _rules(ec2, group_id) == {("-1", None, group_id), ("tcp", 22, NETWORK)}
    # A second launch finds what the first one made; another network takes the first one's place.
    moved = read_cluster("cluster.yaml")
    moved["provider"]["ssh_from"] = ["203.0.113.0/24"]
    again = _resolve(moved)
    assert again["available_node_types"] == resolved["available_node_types"]
    assert again["auth"] == resolved["auth"]
    assert _rules(ec2, group_id) == {("-1", None, group_id), ("tcp", 22, "203.0.113.0/24")}


def test_the_head_may_do_what_an_autoscaler_does_and_workers_nothing(
    resolved: dict[str, Any],
) -> None:
    iam = boto3.client("iam", REGION)
    kinds = dict(resolved["available_node_types"])
    head = kinds.pop(resolved["head_node_type"])["node_config"]
    assert all("IamInstanceProfile" not in kind["node_config"] for kind in kinds.values())
    name = head["IamInstanceProfile"]["Name"]
    (role,) = iam.get_instance_profile(InstanceProfileName=name)["InstanceProfile"]["Roles"]
    assert iam.list_attached_role_policies(RoleName=role["RoleName"])["AttachedPolicies"] == []
    (policy,) = iam.list_role_policies(RoleName=role["RoleName"])["PolicyNames"]
    document = iam.get_role_policy(RoleName=role["RoleName"], PolicyName=policy)["PolicyDocument"]
    actions = {action for statement in document["Statement"] for action in statement["Action"]}
    assert {"ec2:RunInstances", "ec2:TerminateInstances", "ssm:GetParameters"} <= actions
    assert not any(action.endswith(":*") or action.startswith("s3:") for action in actions)


@pytest.mark.parametrize(
    ("networks", "said"),
    [([], "must name the networks"), (["10.0.0.1/8"], "host bits"), (["me"], "octets")],
)
def test_who_may_connect_must_be_said(networks: list[str], said: str) -> None:
    config = read_cluster("cluster.yaml")
    config["provider"]["ssh_from"] = networks
    with pytest.raises(click.ClickException, match=said):
        aws_nodes.AwsNodes.bootstrap_config(config)


def _tags(name: str, is_head: bool) -> dict[str, str]:
    return {
        TAG_RAY_NODE_KIND: NODE_KIND_HEAD if is_head else NODE_KIND_WORKER,
        TAG_RAY_USER_NODE_TYPE: name,
        TAG_RAY_NODE_NAME: f"ray-murmur-{name}",
        TAG_RAY_NODE_STATUS: "uninitialized",
        TAG_RAY_LAUNCH_CONFIG: "hash",
    }


def _live(provider: Any) -> list[str]:
    found: list[str] = provider.non_terminated_nodes({})
    return found


def _check_instance(
    name: str, found: dict[str, Any], config: dict[str, Any], is_head: bool
) -> None:
    asked = config["available_node_types"][name]["node_config"]
    tags = {tag["Key"]: tag["Value"] for tag in found["Tags"]}
    assert tags["ray-cluster-name"] == config["cluster_name"]
    assert found["InstanceType"] == asked["InstanceType"]
    assert (found.get("InstanceLifecycle") == "spot") == name.endswith("-spot")
    assert [group["GroupId"] for group in found["SecurityGroups"]] == asked["SecurityGroupIds"]
    assert found["KeyName"] == "murmur"
    assert found["MetadataOptions"]["HttpTokens"] == "required"
    assert ("IamInstanceProfile" in found) == is_head
    assert found["ImageId"] == asked["ImageId"]


def _rules(ec2: Any, group_id: str) -> set[tuple[str, int | None, str]]:
    (group,) = ec2.describe_security_groups(GroupIds=[group_id])["SecurityGroups"]
    return {
        (rule["IpProtocol"], rule.get("FromPort"), source)
        for rule in group["IpPermissions"]
        for source in (
            *(found["CidrIp"] for found in rule["IpRanges"]),
            *(found["GroupId"] for found in rule["UserIdGroupPairs"]),
        )
    }
