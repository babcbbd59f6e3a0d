"""Huffman's tree: a binary tree of classes in which the frequent ones are near the root.

This file knows numbers, never a framework.
"""

import heapq
from collections.abc import Sequence

Way = tuple[int, ...]


def huffman_ways(counts: Sequence[float]) -> list[Way]:
    """Return each class's way down from the root, as one row of a table.

    The inner nodes are numbered from 1, the root, so that a child has a larger number than its parent. A step is the
    number of the node it leaves: n towards the first of the two that were joined there, -n towards the second. Ways
    shorter than the longest are filled up with 0.

    The two lightest trees are joined until one is left. Of trees of equal weight those that exist longest go first,
    which keeps the longest way short.
    """
    classes = len(counts)
    heap = [(count, age) for age, count in enumerate(counts)]  # the age of a tree: a class, or when it was joined
    heapq.heapify(heap)
    joined = []
    for age in range(classes, 2 * classes - 1):
        first, second = heapq.heappop(heap), heapq.heappop(heap)
        joined.append((first[1], second[1]))
        heapq.heappush(heap, (first[0] + second[0], age))

    ways: list[Way] = [()] * (2 * classes - 1)  # by age; the root is the youngest
    for node, (first_child, second_child) in enumerate(reversed(joined), start=1):
        way = ways[2 * classes - 1 - node]
        ways[first_child], ways[second_child] = (*way, node), (*way, -node)
    depth = max(map(len, ways[:classes]))
    return [way + (0,) * (depth - len(way)) for way in ways[:classes]]
