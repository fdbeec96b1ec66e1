"""Sweeps: more design points than one call should hold, in parts that survive whatever happens.

`block` what a spec says of a sweep | `space` the points, by their position | `units` one design at
its points | `keys` what determines a part | `former` points that are there already | `work`
evaluating one | `parts` the files | `driver` one process, several, a cluster | `ask` search |
`read` the results, lazily | `filters` conditions
"""
