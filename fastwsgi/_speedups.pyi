"""The compiled twin's types are the pure twin's, name by name; stubtest holds the module to them."""

from ._fallback import (
    Channel as Channel,
    FastLane as FastLane,
    FileWrapper as FileWrapper,
    Headers as Headers,
    RequestHead as RequestHead,
    SharedEpoll as SharedEpoll,
    build_environ as build_environ,
    check_fields as check_fields,
    check_status as check_status,
    current_date as current_date,
    find_head_end as find_head_end,
    format_date_time as format_date_time,
    format_fields as format_fields,
    format_preamble as format_preamble,
    hand_out as hand_out,
    is_hop_by_hop as is_hop_by_hop,
    load_pure as load_pure,
    parse_head as parse_head,
    parse_request_line as parse_request_line,
    run_stock as run_stock,
)
