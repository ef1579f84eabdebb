"""Errors of the library as messages on the page."""

import functools
import logging
from collections.abc import Callable
from typing import Any

import gradio as gr
import torch

from r2tuning.app.sessions import Abandoned


logger = logging.getLogger(__name__)


def show_errors(function: Callable[..., Any]) -> Callable[..., Any]:
    """Turn errors into messages on the page; work that is no longer wanted ends without one."""

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except Abandoned:
            return gr.skip()
        except (ImportError, OSError, ValueError) as error:
            logger.info("shown on the page: %s", error)
            raise gr.Error(str(error), duration=None, print_exception=False) from error
        except gr.Error:
            raise
        except torch.OutOfMemoryError as error:
            logger.exception("out of memory")
            raise gr.Error("The server has not enough memory for this video. Upload a part of it.") from error
        except Exception as error:  # noqa: BLE001 (whatever it is, the page must not be silent)
            logger.exception("unexpected error")
            raise gr.Error(f"Something went wrong on the server: {type(error).__name__}.") from error

    return run


__all__ = ["show_errors"]
