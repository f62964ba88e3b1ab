"""Tools: typed Python functions that a policy may call, what a call costs, and how one is run without harm.

>>> @tool(price=1.0, latency=3.0, timeout=None)
... def double(number: int) -> int:
...     '''Doubles a number.
...
...     Args:
...         number: The number to double.
...     '''
...     return 2 * number
>>> double.schema["function"]["parameters"]["properties"]
{'number': {'type': 'integer', 'description': 'The number to double.'}}
>>> call = {"id": "call00000", "type": "function", "function": {"name": "double", "arguments": {"number": 4}}}
>>> messages, runs = run_calls({"double": double}, [call])
>>> messages[0]["content"], runs[0].dollars
('8', 1.0)
"""

from grpo_agents.tools.definition import Tool, ToolResult, tool
from grpo_agents.tools.mcp import McpServer, mcp_tools
from grpo_agents.tools.models import PricedModel, choice_tool, model_tool
from grpo_agents.tools.price import Price
from grpo_agents.tools.retrieval import search_tool
from grpo_agents.tools.running import MAX_RESULT_CHARS, UNREADABLE, run_calls

__all__ = [
    "MAX_RESULT_CHARS",
    "UNREADABLE",
    "McpServer",
    "Price",
    "PricedModel",
    "Tool",
    "ToolResult",
    "choice_tool",
    "mcp_tools",
    "model_tool",
    "run_calls",
    "search_tool",
    "tool",
]
