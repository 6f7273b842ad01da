"""Ray's node provider for AWS with tighter permissions. cluster.yaml names it.

Ray's own provider opens SSH to the world and gives the head a role with full access to EC2 and S3.
Here each cluster has its own security group and role. SSH is open to `provider.ssh_from` only, and
the role may start, tag and terminate this cluster's machines and look up images.
"""

import ipaddress
import json
import time
from typing import Any

import click
from ray.autoscaler._private.aws.config import bootstrap_aws
from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
from ray.autoscaler._private.aws.utils import client_cache, resource_cache

from serve.clouds.cluster_token import make_token

_SSH_PORT = 22
_PROPAGATION_S = 15.0
"""Time until EC2 knows a new instance profile. Ray waits as long."""
_CLUSTER_TAG = "ray-cluster-name"


class AwsNodes(AWSNodeProvider):
    """`provider.module` of a cluster file.

    Besides Ray's own keys, `provider` has `ssh_from`, the networks that may open SSH connections,
    and `vpc_id`, by default the region's default VPC.
    """

    @staticmethod
    def bootstrap_config(cluster_config: dict[str, Any]) -> dict[str, Any]:
        """Create what the cluster still lacks: token, security group, role, and what Ray's own
        provider creates.

        Raises:
            ClickException: the file names no valid networks, or no VPC where there is no default.
        """
        networks = _networks(cluster_config["provider"].get("ssh_from"))
        make_token()
        group_id = _security_group(cluster_config, networks)
        profile = _profile(cluster_config)
        for node_type in cluster_config["available_node_types"].values():
            node_type["node_config"].setdefault("SecurityGroupIds", [group_id])
        head = cluster_config["available_node_types"][cluster_config["head_node_type"]]
        head["node_config"].setdefault("IamInstanceProfile", {"Name": profile})
        config: dict[str, Any] = bootstrap_aws(cluster_config)  # type: ignore[no-untyped-call]
        return config


def _networks(given: Any) -> list[str]:
    if not given:
        raise click.ClickException(
            "provider.ssh_from must name the networks that you connect from, such as "
            "[198.51.100.7/32]; https://checkip.amazonaws.com tells your address"
        )
    try:
        return [str(ipaddress.IPv4Network(network)) for network in given]
    except ValueError as error:
        raise click.ClickException(f"provider.ssh_from: {error}") from error


def _security_group(config: dict[str, Any], networks: list[str]) -> str:
    """Find or create the cluster's security group; returns its id. Members reach each other, and
    `networks` reach their SSH port."""
    ec2 = resource_cache("ec2", config["provider"]["region"])
    name = f"murmur-{config['cluster_name']}"
    vpc_id = config["provider"].get("vpc_id") or _default_vpc(ec2)
    filters = [{"Name": "vpc-id", "Values": [vpc_id]}, {"Name": "group-name", "Values": [name]}]
    found = list(ec2.security_groups.filter(Filters=filters))
    group = found[0] if found else _make_group(ec2, vpc_id, name, config["cluster_name"])
    _open_ssh(group, networks)
    return str(group.id)


def _default_vpc(ec2: Any) -> str:
    found = list(ec2.vpcs.filter(Filters=[{"Name": "is-default", "Values": ["true"]}]))
    if not found:
        raise click.ClickException("provider.vpc_id must be set: the region has no default VPC")
    return str(found[0].id)


def _make_group(ec2: Any, vpc_id: str, name: str, cluster_name: str) -> Any:
    tags = [{"Key": _CLUSTER_TAG, "Value": cluster_name}]
    group = ec2.create_security_group(
        GroupName=name,
        Description="Nodes of a Murmur cluster, and SSH to them",
        VpcId=vpc_id,
        TagSpecifications=[{"ResourceType": "security-group", "Tags": tags}],
    )
    within = {"IpProtocol": "-1", "UserIdGroupPairs": [{"GroupId": group.id}]}
    group.authorize_ingress(IpPermissions=[within])
    return group


def _open_ssh(group: Any, networks: list[str]) -> None:
    """Open the SSH port to these networks, and close it to all others."""
    present = {
        found["CidrIp"]
        for rule in group.ip_permissions
        if rule.get("FromPort") == _SSH_PORT
        for found in rule["IpRanges"]
    }
    if missing := set(networks) - present:
        group.authorize_ingress(IpPermissions=[_ssh_rule(missing)])
    if extra := present - set(networks):
        group.revoke_ingress(IpPermissions=[_ssh_rule(extra)])


def _ssh_rule(networks: set[str]) -> dict[str, Any]:
    ranges = [{"CidrIp": network} for network in sorted(networks)]
    return {
        "IpProtocol": "tcp",
        "FromPort": _SSH_PORT,
        "ToPort": _SSH_PORT,
        "IpRanges": ranges,
    }


def _profile(config: dict[str, Any]) -> str:
    """Find or create the head's instance profile and role, which share a name; returns it."""
    iam = client_cache("iam", config["provider"]["region"])
    name = f"murmur-{config['cluster_name']}-{config['provider']['region']}"
    is_new = False
    try:
        iam.get_role(RoleName=name)
    except iam.exceptions.NoSuchEntityException:
        iam.create_role(RoleName=name, AssumeRolePolicyDocument=json.dumps(_trust()))
        is_new = True
    policy = json.dumps(_policy(config["cluster_name"]))
    iam.put_role_policy(RoleName=name, PolicyName="nodes", PolicyDocument=policy)
    try:
        profile = iam.get_instance_profile(InstanceProfileName=name)["InstanceProfile"]
    except iam.exceptions.NoSuchEntityException:
        profile = iam.create_instance_profile(InstanceProfileName=name)["InstanceProfile"]
        is_new = True
    if not profile["Roles"]:
        iam.add_role_to_instance_profile(InstanceProfileName=name, RoleName=name)
    if is_new:
        time.sleep(_PROPAGATION_S)
    return name


def _trust() -> dict[str, Any]:
    who = {"Service": "ec2.amazonaws.com"}
    return _document([{"Effect": "Allow", "Principal": who, "Action": "sts:AssumeRole"}])


def _policy(cluster_name: str) -> dict[str, Any]:
    """What the autoscaler may do: start machines, and tag and terminate those of its cluster."""
    of_cluster = {"StringEquals": {f"ec2:ResourceTag/{_CLUSTER_TAG}": cluster_name}}
    at_start = {"StringEquals": {"ec2:CreateAction": "RunInstances"}}
    for_spot = {"StringEquals": {"iam:AWSServiceName": "spot.amazonaws.com"}}
    images = "arn:*:ssm:*::parameter/aws/service/*"
    return _document(
        [
            _allowed(["ec2:Describe*", "ec2:RunInstances"], "*"),
            _allowed(["ec2:CreateTags"], "*", at_start),
            _allowed(["ec2:CreateTags", "ec2:TerminateInstances"], "*", of_cluster),
            _allowed(["iam:CreateServiceLinkedRole"], "*", for_spot),
            _allowed(["ssm:GetParameters"], images),
        ]
    )


def _allowed(
    actions: list[str], resource: str, condition: dict[str, Any] | None = None
) -> dict[str, Any]:
    conditions = {"Condition": condition} if condition else {}
    return {"Effect": "Allow", "Action": actions, "Resource": resource, **conditions}


def _document(statements: list[dict[str, Any]]) -> dict[str, Any]:
    return {"Version": "2012-10-17", "Statement": statements}
