"""What surfaces, tasks and tables may be called."""

from typing import Annotated

from pydantic import AfterValidator

# What PyTorch's `ModuleDict`, in which tables live under their names, has itself.
_OF_MODULES = """
T_destination add_module apply bfloat16 buffers call_super_init children clear compile cpu cuda
double dump_patches eval extra_repr float forward get_buffer get_extra_state get_parameter
get_submodule half ipu items keys load_state_dict modules mtia named_buffers named_children
named_modules named_parameters parameters pop register_backward_hook register_buffer
register_forward_hook register_forward_pre_hook register_full_backward_hook
register_full_backward_pre_hook register_load_state_dict_post_hook
register_load_state_dict_pre_hook register_module register_parameter
register_state_dict_post_hook register_state_dict_pre_hook requires_grad_ set_extra_state
set_submodule share_memory state_dict to to_empty train training type update values xpu
zero_grad
"""
OF_MODULES = frozenset(_OF_MODULES.split())


def _for_files(name: str) -> str:
    if not name:
        raise ValueError("a name is empty; give it one")
    if name.startswith(".") or set(name) & set('/\\"') or not name.isprintable():
        raise ValueError(
            f"the name {name!r} is a folder's or a file's too; write it without a dot at its "
            'beginning, / \\ " and control characters'
        )
    return name


def _for_columns(name: str) -> str:
    if "." in name:
        raise ValueError(f"the name {name} has a dot; write {name.replace('.', '_')}")
    return name


def _for_modules(name: str) -> str:
    if name in OF_MODULES:
        raise ValueError(f"a table cannot be called {name}; write {name}_table")
    return name


# Surfaces are values of the data and have the names that they have there.
SurfaceName = Annotated[str, AfterValidator(_for_files)]
TaskName = Annotated[SurfaceName, AfterValidator(_for_columns)]
TableName = Annotated[TaskName, AfterValidator(_for_modules)]
