import asyncio, tempfile, psutil
from pathlib import Path
from benchmarks.crew_run import crew
from tests.integration.worker.installation import install
from tests.support.llm_script import Reply
async def go():
    with tempfile.TemporaryDirectory() as d:
        async with install(Path(d), COXSWAIN_LOG_LEVEL="WARNING") as inst:
            host = await inst.worker()
            p = psutil.Process(host.pid)
            def mem(pid):
                m = psutil.Process(pid).memory_full_info(); return round(m.uss/2**20), round(m.pss/2**20), round(m.rss/2**20)
            print("host", mem(host.pid), "fork server", mem(host.fork_server), "spares", [mem(x) for x in host.spare_processes])
            inst.llm.on(Reply(text="Done.", hang=True))
            for n in (1,2,4,4): await inst.start(crew(n))
            await inst.llm.wait_for_calls(4, hanging=True)
            print("at work uss,pss,rss", [mem(x) for x in host.crew_processes()], "spares", [mem(x) for x in host.spare_processes])
            print("host", mem(host.pid), "fork server", mem(host.fork_server))
            inst.llm.release()
asyncio.run(go())
