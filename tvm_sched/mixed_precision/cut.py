"""The cheapest division of a network in two precisions, exactly: a minimum cut.

Each site costs so much in 8 bits and so much in float32, and a value that is made in one precision and read in the
other a conversion: to float32 once, however many read it, to 8 bits for each reader, which puts margins of its own
around it first. These costs are those of a cut between a source (8 bits) and a sink
(float32): the edges from what lies with the source to what lies with the sink.

    source -> site        its cost in float32, which is cut, and paid, where the site lies with the sink
    site -> sink          its cost in 8 bits
    reader -> maker       the conversion to 8 bits
    maker -> v -> reader  that to float32: v -> reader has any capacity, so that v lies with the sink where one of the
                          readers does
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import networkx as nx

SOURCE, SINK = "source", "sink"


@dataclass(frozen=True)
class Cost:
    """Cycles of a site."""

    int8: float
    float32: float


@dataclass(frozen=True)
class Value:
    """What one site makes (None: what is in float32 anyway) and others read (None among them: in float32 anyway)."""

    maker: Hashable | None
    readers: Sequence[Hashable | None]
    to_int8: float  # cycles of its conversion
    to_float32: float


def in_8_bits(sites: Mapping[Hashable, Cost], values: Sequence[Value]) -> set:
    """The sites that are computed in 8 bits where all together take the fewest cycles."""
    graph = nx.DiGraph()
    graph.add_nodes_from((SOURCE, SINK))

    def edge(above: Hashable, below: Hashable, cycles: float | None) -> None:
        if cycles is None:
            graph.add_edge(above, below)  # of any capacity
        elif cycles > 0:
            before = graph.get_edge_data(above, below, {"capacity": 0.0})["capacity"]
            graph.add_edge(above, below, capacity=before + cycles)

    def node(site: Hashable | None) -> Hashable:
        return SINK if site is None else ("site", site)

    for site, cost in sites.items():
        edge(SOURCE, node(site), cost.float32)
        edge(node(site), SINK, cost.int8)
    for number, value in enumerate(values):
        maker, readers = node(value.maker), [node(reader) for reader in value.readers]
        for reader in readers:
            edge(reader, maker, value.to_int8)
            edge(("value", number), reader, None)
        edge(maker, ("value", number), value.to_float32)
    graph.remove_edges_from([each for each in graph.edges if each[0] == SINK])  # never cut
    _, (with_source, _) = nx.minimum_cut(graph, SOURCE, SINK)
    return {each[1] for each in with_source if each != SOURCE and each[0] == "site"}


def cycles(sites: Mapping[Hashable, Cost], values: Sequence[Value], taken: set) -> float:
    """What all takes where these sites are computed in 8 bits."""
    total = sum(cost.int8 if site in taken else cost.float32 for site, cost in sites.items())
    for value in values:
        narrow = value.maker in taken
        others = sum((reader in taken) != narrow for reader in value.readers)
        total += min(others, 1) * value.to_float32 if narrow else others * value.to_int8
    return total
