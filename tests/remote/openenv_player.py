"""Plays episodes with OpenEnv's own client: a program for a Python that has openenv, and nothing of this project.

It reads JSON: the server's URL and sessions, each of HTTP headers and episodes, which have what ``reset`` is called
with and the actions. It writes what the client gave in each of them, or why it was not let in.
"""

import asyncio
import json
import sys


async def play(url, headers, episodes):
    from openenv.core import GenericEnvClient  # here, as pytest looks for doctests in this file without having it

    try:
        async with GenericEnvClient(base_url=url, headers=headers) as env:
            return {"episodes": [await played(env, **episode) for episode in episodes]}
    except ConnectionError as error:
        return {"error": str(error)}


async def played(env, reset, actions):
    results = [await env.reset(**reset), *[await env.step({"message": action}) for action in actions]]
    shown = [[one.observation["messages"], one.observation["info"], one.reward, one.done] for one in results]
    return {"shown": shown, "state": await env.state()}


async def main():
    asked = json.load(sys.stdin)
    json.dump([await play(asked["url"], **session) for session in asked["sessions"]], sys.stdout)


if __name__ == "__main__":
    asyncio.run(main())
