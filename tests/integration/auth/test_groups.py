"""Groups, members and roles."""

import asyncio
from pathlib import Path

import pytest
from grpc import StatusCode

from coxswain.auth.v1 import delegation_pb2, group_pb2, principal_pb2
from coxswain.common.v1 import access_pb2
from services.auth.settings import AuthSettings
from services.common.grpc.call import acting_as
from tests.integration.auth.support import groups, internal, public, refused, token_of
from tests.support.harness import ALICE, BOB, Harness, serve_services

OPERATOR, EDITOR, ADMIN = access_pb2.ROLE_OPERATOR, access_pb2.ROLE_EDITOR, access_pb2.ROLE_ADMIN


WHO = principal_pb2.WhoAmIRequest()


async def who_is(auth: Harness, bearer: str, group: str = "") -> principal_pb2.WhoAmIResponse:
    return await public(auth, bearer, group).WhoAmI(WHO)


async def test_an_invitation_counts_for_nothing_until_it_is_accepted(auth: Harness) -> None:
    create = group_pb2.CreateGroupRequest(display_name="Beta", admin_subject="dev|dave")
    beta = (await groups(auth, "").CreateGroup(create)).group.id
    invitation = group_pb2.SetMemberRequest(subject="dev|dave", role=EDITOR)
    assert (await groups(auth, "dev:eve:evil=admin").SetMember(invitation)).member.invited
    me = await who_is(auth, "dev:dave")
    assert (me.principal.group_id, [group.group_id for group in me.groups]) == (beta, [beta])
    assert [(group.group_id, group.role) for group in me.invitations] == [("evil", EDITOR)]
    await groups(auth, "dev:dave").ListMembers(group_pb2.ListMembersRequest())

    listed = (await groups(auth, "dev:eve:evil=admin").ListMembers(group_pb2.ListMembersRequest())).members
    assert [(member.subject, member.invited) for member in listed] == [("dev|dave", True)]
    accepted = await who_is(auth, "dev:dave", "evil")
    assert (accepted.principal.group_id, accepted.principal.role) == ("evil", EDITOR)
    assert [group.group_id for group in accepted.groups] == sorted([beta, "evil"])
    assert not accepted.invitations


async def test_who_is_in_no_group_is_told_of_invitations_and_acts_nowhere(auth: Harness) -> None:
    await groups(auth, ALICE).SetMember(group_pb2.SetMemberRequest(subject="dev|dave", role=EDITOR))
    me = await who_is(auth, "dev:dave")
    assert (me.principal.group_id, list(me.groups)) == ("", [])
    with refused(StatusCode.FAILED_PRECONDITION, "GROUP_REQUIRED") as refusal:
        await groups(auth, "dev:dave").ListMembers(group_pb2.ListMembersRequest())
    assert "x-group-id: sales" in refusal.message


async def test_an_invitation_can_be_taken_back_and_changed(auth: Harness) -> None:
    alice = groups(auth, ALICE)
    await alice.SetMember(group_pb2.SetMemberRequest(subject="dev|dave", role=EDITOR))
    changed = (await alice.SetMember(group_pb2.SetMemberRequest(subject="dev|dave", role=OPERATOR))).member
    assert (changed.invited, changed.role) == (True, OPERATOR)
    await alice.RemoveMember(group_pb2.RemoveMemberRequest(subject="dev|dave"))
    with refused(StatusCode.PERMISSION_DENIED, "GROUP_NOT_MEMBER"):
        await groups(auth, "dev:dave", "sales").ListMembers(group_pb2.ListMembersRequest())


async def test_an_invitation_gives_nothing_back_to_what_somebody_started_who_has_left(auth: Harness) -> None:
    invitation = group_pb2.SetMemberRequest(subject="dev|dave", role=EDITOR)
    await groups(auth, ALICE).SetMember(invitation)
    await who_is(auth, "dev:dave", "sales")
    with acting_as(await token_of(auth, "dev:dave")):
        grant = await internal(auth).CreateDelegation(delegation_pb2.CreateDelegationRequest(execution_id="run-1"))
    request = delegation_pb2.IssueExecutionPrincipalRequest(grant_id=grant.grant_id, execution_id="run-1")
    await internal(auth).IssueExecutionPrincipal(request)
    await groups(auth, "dev:dave", "sales").RemoveMember(group_pb2.RemoveMemberRequest(subject="dev|dave"))
    await groups(auth, ALICE).SetMember(invitation)
    with refused(StatusCode.PERMISSION_DENIED, "DELEGATION_REVOKED"):
        await internal(auth).IssueExecutionPrincipal(request)


async def test_who_acts_in_a_group_by_a_claim_keeps_what_an_admin_has_set(auth: Harness) -> None:
    await groups(auth, ALICE).SetMember(group_pb2.SetMemberRequest(subject="dev|dave", role=EDITOR))
    await who_is(auth, "dev:dave:sales=operator")
    listed = (await groups(auth, ALICE).ListMembers(group_pb2.ListMembersRequest())).members
    assert [(member.subject, member.invited) for member in listed] == [("dev|dave", False)]
    assert (await who_is(auth, "dev:dave")).principal.role == EDITOR


async def test_everybody_may_leave_and_only_admins_remove_others(auth: Harness) -> None:
    create = group_pb2.CreateGroupRequest(display_name="Beta", admin_subject="dev|dave")
    beta = (await groups(auth, "").CreateGroup(create)).group.id
    await groups(auth, ALICE).SetMember(group_pb2.SetMemberRequest(subject="dev|dave", role=OPERATOR))
    dave = groups(auth, "dev:dave", "sales")
    with refused(StatusCode.PERMISSION_DENIED, "ROLE_REQUIRED") as refusal:
        await dave.RemoveMember(group_pb2.RemoveMemberRequest(subject="dev|alice"))
    assert refusal.metadata == {"required": "ADMIN", "actual": "OPERATOR"}
    await dave.RemoveMember(group_pb2.RemoveMemberRequest(subject="dev|dave"))
    assert (await who_is(auth, "dev:dave")).principal.group_id == beta


async def test_a_platform_admin_is_not_locked_out_by_invitations(tmp_path: Path) -> None:
    settings = {"auth": AuthSettings(platform_admins=("dev|root",))}
    async with serve_services(tmp_path, settings=settings) as auth:
        for group in ("evil", "worse"):
            stub = groups(auth, f"dev:eve:{group}=admin")
            await stub.SetMember(group_pb2.SetMemberRequest(subject="dev|root", role=OPERATOR))
        await groups(auth, "dev:root").ListGroups(group_pb2.ListGroupsRequest())


async def test_a_new_group_has_one_admin_who_may_then_add_others(auth: Harness) -> None:
    create = group_pb2.CreateGroupRequest(display_name="Sales", admin_subject="dev|carol")
    group = (await groups(auth, "").CreateGroup(create)).group
    assert group.display_name == "Sales"
    await groups(auth, "dev:carol").SetMember(group_pb2.SetMemberRequest(subject="dev|dave", role=OPERATOR))
    me = await public(auth, "dev:dave", group.id).WhoAmI(principal_pb2.WhoAmIRequest())
    assert (me.principal.group_id, me.principal.role) == (group.id, OPERATOR)
    members = (await groups(auth, "dev:dave").ListMembers(group_pb2.ListMembersRequest())).members
    assert [(member.subject, member.role) for member in members] == [("dev|carol", ADMIN), ("dev|dave", OPERATOR)]


async def test_a_group_id_is_never_derived_from_its_name(auth: Harness) -> None:
    create = group_pb2.CreateGroupRequest(display_name="a.b@x", admin_subject="dev|carol")
    ids = {(await groups(auth, "").CreateGroup(create)).group.id for _ in range(2)}
    assert len(ids) == 2
    assert not any("a" in group_id and "@" in group_id for group_id in ids)


async def test_a_repeated_request_makes_one_group(auth: Harness) -> None:
    create = group_pb2.CreateGroupRequest(display_name="Sales", admin_subject="dev|carol", request_id="r1")
    made = await asyncio.gather(*(groups(auth, "").CreateGroup(create) for _ in range(5)))
    assert len({response.group.id for response in made}) == 1
    create.display_name = "Legal"
    with refused(StatusCode.ALREADY_EXISTS, "REQUEST_ID_REUSED"):
        await groups(auth, "").CreateGroup(create)


async def test_a_removed_member_loses_their_executions_at_once(auth: Harness) -> None:
    await groups(auth, ALICE).SetMember(group_pb2.SetMemberRequest(subject="dev|dave", role=EDITOR))
    await public(auth, "dev:dave", "sales").WhoAmI(principal_pb2.WhoAmIRequest())
    with acting_as(await token_of(auth, "dev:dave")):
        grant = (
            await internal(auth).CreateDelegation(delegation_pb2.CreateDelegationRequest(execution_id="run-1"))
        ).grant_id
    request = delegation_pb2.IssueExecutionPrincipalRequest(grant_id=grant, execution_id="run-1")
    await internal(auth).IssueExecutionPrincipal(request)
    await groups(auth, ALICE).SetMember(group_pb2.SetMemberRequest(subject="dev|dave", role=OPERATOR))
    assert (await internal(auth).IssueExecutionPrincipal(request)).principal.role == OPERATOR
    await groups(auth, ALICE).RemoveMember(group_pb2.RemoveMemberRequest(subject="dev|dave"))
    with refused(StatusCode.PERMISSION_DENIED, "DELEGATION_REVOKED"):
        await internal(auth).IssueExecutionPrincipal(request)


async def test_a_removed_member_is_refused_when_their_principal_is_next_made(tmp_path: Path) -> None:
    async with serve_services(tmp_path, principal_cache_seconds=0) as auth:
        await groups(auth, ALICE).SetMember(group_pb2.SetMemberRequest(subject="dev|dave", role=EDITOR))
        await groups(auth, "dev:dave", "sales").ListMembers(group_pb2.ListMembersRequest())
        await groups(auth, ALICE).RemoveMember(group_pb2.RemoveMemberRequest(subject="dev|dave"))
        with refused(StatusCode.PERMISSION_DENIED, "GROUP_NOT_MEMBER"):
            await groups(auth, "dev:dave", "sales").ListMembers(group_pb2.ListMembersRequest())


async def test_the_last_admin_stays(auth: Harness) -> None:
    create = group_pb2.CreateGroupRequest(display_name="Sales", admin_subject="dev|carol")
    await groups(auth, "").CreateGroup(create)
    carol = groups(auth, "dev:carol")
    with refused(StatusCode.FAILED_PRECONDITION, "RESOURCE_IN_USE"):
        await carol.RemoveMember(group_pb2.RemoveMemberRequest(subject="dev|carol"))
    with refused(StatusCode.FAILED_PRECONDITION, "RESOURCE_IN_USE"):
        await carol.SetMember(group_pb2.SetMemberRequest(subject="dev|carol", role=EDITOR))
    await carol.SetMember(group_pb2.SetMemberRequest(subject="dev|dave", role=ADMIN))
    with refused(StatusCode.FAILED_PRECONDITION, "RESOURCE_IN_USE"):
        await carol.RemoveMember(group_pb2.RemoveMemberRequest(subject="dev|carol"))
    await public(auth, "dev:dave", (await who_is(auth, "dev:carol")).principal.group_id).WhoAmI(WHO)
    outcomes = await asyncio.gather(
        carol.RemoveMember(group_pb2.RemoveMemberRequest(subject="dev|carol")),
        carol.RemoveMember(group_pb2.RemoveMemberRequest(subject="dev|dave")),
        return_exceptions=True,
    )
    assert sum(isinstance(outcome, group_pb2.RemoveMemberResponse) for outcome in outcomes) == 1


async def test_membership_belongs_to_the_callers_group(auth: Harness) -> None:
    await groups(auth, ALICE).SetMember(group_pb2.SetMemberRequest(subject="dev|dave", role=OPERATOR))
    assert not (await groups(auth, BOB).ListMembers(group_pb2.ListMembersRequest())).members
    with refused(StatusCode.NOT_FOUND, "NOT_FOUND"):
        await groups(auth, BOB).RemoveMember(group_pb2.RemoveMemberRequest(subject="dev|dave"))


@pytest.mark.parametrize("bearer", [ALICE, "dev:edna:sales=editor"])
async def test_groups_are_made_and_removed_by_platform_admins_only(auth: Harness, bearer: str) -> None:
    stub = groups(auth, bearer)
    with refused(StatusCode.PERMISSION_DENIED, "ROLE_REQUIRED"):
        await stub.CreateGroup(group_pb2.CreateGroupRequest(display_name="x", admin_subject="dev|x"))
    with refused(StatusCode.PERMISSION_DENIED, "ROLE_REQUIRED"):
        await stub.ListGroups(group_pb2.ListGroupsRequest())
    with refused(StatusCode.PERMISSION_DENIED, "ROLE_REQUIRED"):
        await stub.DeleteGroup(group_pb2.DeleteGroupRequest(id="sales", confirm_id="sales"))


async def test_a_deleted_group_opens_nothing_any_more(auth: Harness) -> None:
    create = group_pb2.CreateGroupRequest(display_name="Sales", admin_subject="dev|carol", request_id="r1")
    group = (await groups(auth, "").CreateGroup(create)).group
    with refused(StatusCode.FAILED_PRECONDITION, "CONFIRMATION_MISMATCH"):
        await groups(auth, "").DeleteGroup(group_pb2.DeleteGroupRequest(id=group.id, confirm_id="Sales"))
    await groups(auth, "").DeleteGroup(group_pb2.DeleteGroupRequest(id=group.id, confirm_id=group.id))
    assert group.id not in [
        found.id for found in (await groups(auth, "").ListGroups(group_pb2.ListGroupsRequest())).groups
    ]
    with refused(StatusCode.FAILED_PRECONDITION, "GROUP_REQUIRED"):
        await groups(auth, "dev:carol").ListMembers(group_pb2.ListMembersRequest())
    for confirm in (group.id,):
        with refused(StatusCode.NOT_FOUND, "NOT_FOUND"):
            await groups(auth, "").DeleteGroup(group_pb2.DeleteGroupRequest(id=group.id, confirm_id=confirm))


async def test_listings_go_through_pages(auth: Harness) -> None:
    made = []
    for number in range(5):
        create = group_pb2.CreateGroupRequest(display_name=f"g{number}", admin_subject="dev|carol")
        made.append((await groups(auth, "").CreateGroup(create)).group.id)
    first = await groups(auth, "").ListGroups(group_pb2.ListGroupsRequest(page_size=3))
    rest = await groups(auth, "").ListGroups(group_pb2.ListGroupsRequest(page_size=3, page_token=first.next_page_token))
    assert [group.id for group in (*first.groups, *rest.groups)] == sorted(made)
    assert rest.next_page_token == ""


async def test_a_platform_admin_of_no_group_may_administer_but_not_act_in_any(tmp_path: Path) -> None:
    settings = {"auth": AuthSettings(bootstrap_admin="dev|root", bootstrap_group="first")}
    async with serve_services(tmp_path, settings=settings) as auth:
        listed = (await groups(auth, "dev:root").ListGroups(group_pb2.ListGroupsRequest())).groups
        assert [group.id for group in listed] == ["first"]
        await groups(auth, "").DeleteGroup(group_pb2.DeleteGroupRequest(id="first", confirm_id="first"))
    async with serve_services(tmp_path, settings=settings) as auth:
        # Made once: a later start does not bring back what was removed.
        assert not (await groups(auth, "dev:root").ListGroups(group_pb2.ListGroupsRequest())).groups
        with refused(StatusCode.PERMISSION_DENIED, "ROLE_REQUIRED"):
            await groups(auth, "dev:root").ListMembers(group_pb2.ListMembersRequest())


async def test_platform_admins_may_be_named_in_the_settings(tmp_path: Path) -> None:
    settings = {"auth": AuthSettings(platform_admins=("dev|root",))}
    async with serve_services(tmp_path, settings=settings) as auth:
        await groups(auth, "dev:root").ListGroups(group_pb2.ListGroupsRequest())
        with refused(StatusCode.FAILED_PRECONDITION, "GROUP_REQUIRED"):
            await groups(auth, "dev:toor").ListGroups(group_pb2.ListGroupsRequest())
