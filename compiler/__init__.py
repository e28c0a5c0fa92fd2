"""Networks to X1 programs.

`frontend` reads models, `ir` holds them, `ops` says what each operator means, `passes` change
graphs, `quantize` chooses scales, `schedule` and `codegen` make programs; `driver` calls them in
order.
"""
