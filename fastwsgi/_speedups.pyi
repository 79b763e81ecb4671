"""The types of the compiled twin: those of the pure twin, name by name. stubtest checks the module against them.

The rest of the extension, the accelerator, has its types where it is used.
"""

from ._fallback import (
    FileWrapper as FileWrapper,
    Headers as Headers,
    Request as Request,
    build_environ as build_environ,
    check_fields as check_fields,
    check_status as check_status,
    current_date as current_date,
    find_head_end as find_head_end,
    format_date_time as format_date_time,
    format_fields as format_fields,
    format_preamble as format_preamble,
    is_hop_by_hop as is_hop_by_hop,
    is_plain as is_plain,
    parse_head as parse_head,
    parse_request_line as parse_request_line,
)
