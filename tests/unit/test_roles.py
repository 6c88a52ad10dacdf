"""Roles of every rank for every kind of launch, and an error with both numbers and the remedy for impossible ones."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realm_ds.comm.roles import Role, assign
from realm_ds.errors import ConfigError


def letters(roles: Sequence[Role]) -> str:
    return "".join(role[0] for role in roles)


@pytest.mark.parametrize(
    ("hosts", "num_shards", "placement", "expected"),
    [
        ("aaaa", 2, "per_node", "ttii"),
        ("aaaa", 2, "tail", "ttii"),
        ("aaabbb", 2, "per_node", "ttitti"),
        ("aaabbb", 2, "tail", "ttttii"),
        ("ababab", 2, "per_node", "ttttii"),
        ("aaabb", 2, "per_node", "ttiti"),
        ("abb", 2, "per_node", "iti"),
        ("a", 0, "per_node", "t"),
        ("ab", 0, "tail", "tt"),
    ],
)
def test_placement(hosts: str, num_shards: int, placement: str, expected: str) -> None:
    assert letters(assign(hosts, num_shards=num_shards, placement=placement)) == expected  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("hosts", "num_shards", "num_builders", "placement", "expected"),
    [
        ("aaaaa", 2, 1, "per_node", "ttbii"),
        ("aaaaa", 2, 1, "tail", "ttbii"),
        ("aaaabbbb", 2, 4, "per_node", "tbbitbbi"),
        ("aaaabbbb", 2, 4, "tail", "ttbbbbii"),
        ("aaabbbb", 2, 2, "per_node", "tbittbi"),
        ("aabbb", 2, 2, "per_node", "bitbi"),
        ("abababab", 2, 2, "per_node", "ttttbbii"),
    ],
)
def test_builders_stand_between_trainers_and_shards(
    hosts: str, num_shards: int, num_builders: int, placement: str, expected: str
) -> None:
    roles = assign(hosts, num_shards=num_shards, num_builders=num_builders, placement=placement)  # type: ignore[arg-type]
    assert letters(roles) == expected


@given(
    hosts=st.lists(st.sampled_from("abc"), min_size=1, max_size=12),
    num_shards=st.integers(0, 12),
    num_builders=st.integers(0, 6),
    tail=st.booleans(),
)
def test_a_split_has_trainers_and_exactly_the_shards_and_builders_or_is_an_error(
    hosts: list[str], num_shards: int, num_builders: int, tail: bool
) -> None:
    counts = [hosts.count(host) for host in set(hosts)]
    shards, uneven_shards = divmod(num_shards, len(counts))
    builders, uneven_builders = divmod(num_builders, len(counts))
    placement = "tail" if tail else "per_node"
    try:
        roles = assign(hosts, num_shards=num_shards, num_builders=num_builders, placement=placement)  # type: ignore[arg-type]
    except ConfigError:
        is_uneven = uneven_shards or uneven_builders or min(counts) < shards + builders
        is_too_small = num_shards + num_builders >= len(hosts)
        assert is_too_small or (not tail and is_uneven) or (num_builders and not num_shards)
        return
    assert len(roles) == len(hosts)
    assert (roles.count("index"), roles.count("builder")) == (num_shards, num_builders)
    assert "trainer" in roles
    for host in set() if tail else set(hosts):
        mine = [role for role, at in zip(roles, hosts, strict=True) if at == host]
        trainers = len(mine) - builders - shards
        assert mine == ["trainer"] * trainers + ["builder"] * builders + ["index"] * shards


def test_overrides_replace_the_placement() -> None:
    roles = assign("aabb", num_shards=1, placement="per_node", overrides=["trainer", "index", "trainer", "trainer"])
    assert letters(roles) == "titt"
    assert letters(assign("aab", num_shards=1, placement="tail", overrides=[None] * 3)) == "tti"
    given_roles = ["builder", "index", "trainer"]
    assert letters(assign("aab", num_shards=1, num_builders=1, placement="tail", overrides=given_roles)) == "bit"


@pytest.mark.parametrize(
    ("hosts", "num_shards", "placement", "overrides", "says"),  # "2+1": 2 shards and 1 builder
    [
        ("aa", 2, "tail", None, "num_shards=2 leaves no trainer in a world of 2.*at least 3 processes.*to 1 or less"),
        ("a", 1, "per_node", None, "num_shards=1 leaves no trainer in a world of 1.*at least 2 processes"),
        ("aaabbb", 3, "per_node", None, r"num_shards=3 is not a multiple of the 2 nodes.*a: 3, b: 3.*num_shards=4"),
        ("aaaab", 4, "per_node", None, "node b has 1 process.*num_shards=4 over 2 nodes puts 2 .*placement=tail"),
        ("aaaa", 1, "tail", "ti--", r"set in 2 of 4 processes, not in world rank\(s\) 2, 3: set it .* or in none"),
        ("aa", 1, "tail", "tx", "REALM_ROLE='x' in the environment of world rank 1: use trainer, index or builder"),
        ("aaaa", 1, "tail", "ttii", r"num_shards=1 but 2 .*world 4 = 2 trainers \+ 2 index.*index.num_shards=2"),
        ("aa", 2, "tail", "ii", "all 2 processes have REALM_ROLE=index and none trains"),
        ("aa", 0, "tail", "ti", "num_shards=0 but 1 process"),
        (
            "aaa",
            "2+1",
            "tail",
            None,
            "num_shards=2 and index.builders=1 leave no trainer in a world of 3 .*at least 4 ",
        ),
        ("aa", "2+1", "tail", None, "set index.builders=0, with which .*, and index.num_shards to 1 or less"),
        ("aaa", "0+1", "tail", None, "builders=1 embed for shards, but index.num_shards=0: set index.builders=0, or"),
        ("aaabbb", "2+1", "per_node", None, r"builders=1 is not a multiple of the 2 nodes.*set index.builders=2, or"),
        (
            "aaaaaab",
            "2+2",
            "per_node",
            None,
            "node b has 1 process.*num_shards=2 and index.builders=2 over 2 nodes puts 1 builder ranks and 1 index "
            "ranks on each.*lower index.num_shards=2 or index.builders=2, or set index.placement=tail",
        ),
        ("aaab", "1+2", "tail", "tbit", r"builders=2 but 1 .*4 = 2 trainers \+ 1 builder \+ 1 index.*start 2 with"),
        ("aaa", 1, "tail", "tbi", "index.builders=0 but 1 process.*set index.builders=1, or start 0 with"),
        ("aaa", "1+2", "tail", "bbi", "all 3 processes have REALM_ROLE=index or builder and none trains"),
    ],
)
def test_an_impossible_split_names_both_numbers_and_the_remedy(
    hosts: str, num_shards: int | str, placement: str, overrides: str | None, says: str
) -> None:
    names = {"t": "trainer", "i": "index", "b": "builder", "-": None, "x": "x"}
    shards, _, builders = str(num_shards).partition("+")
    given_roles = None if overrides is None else [names[letter] for letter in overrides]
    with pytest.raises(ConfigError, match=says) as caught:
        assign(
            hosts, num_shards=int(shards), num_builders=int(builders or 0), placement=placement, overrides=given_roles
        )  # type: ignore[call-arg]
    assert "\n" not in str(caught.value)


def test_a_long_list_of_nodes_is_cut_short() -> None:
    with pytest.raises(ConfigError, match=r"the 6 nodes of this launch \(n0: 2, n1: 2, n2: 2, n3: 2, \.\.\.\)"):
        assign([f"n{rank // 2}" for rank in range(12)], num_shards=5, placement="per_node")
