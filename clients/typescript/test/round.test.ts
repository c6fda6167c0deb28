/** The client against a running installation at COXSWAIN_ADDRESS, over each transport. */

import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { createServer, connect } from "node:net";
import type { AddressInfo, Socket } from "node:net";
import { after, before, suite, test } from "node:test";

import { createGrpcTransport } from "@connectrpc/connect-node";

import { addressesOf } from "../src/addresses.js";
import { Code, Coxswain, CoxswainError } from "../src/index.js";
import type { CoxswainOptions } from "../src/index.js";

const ADDRESS = process.env.COXSWAIN_ADDRESS ?? "127.0.0.1:50051";
const TEXT = "The ferry leaves at nine. It carries cars and forty passengers. It returns at noon.";
const WIRES: Record<string, Pick<CoxswainOptions, "transport">> = {
  "grpc-js": {},
  connect: { transport: (address) => createGrpcTransport({ baseUrl: `http://${address}` }) },
};

/** A relay to the server whose connections can be cut. */
async function relayed(): Promise<{ address: string; cut: () => void; close: () => void }> {
  const sockets = new Set<Socket>();
  const [host, port] = ADDRESS.split(":");
  const server = createServer((inner) => {
    const outer = connect(Number(port), host);
    for (const [source, sink] of [[inner, outer], [outer, inner]] as const) {
      sockets.add(source);
      source.on("error", () => undefined).on("close", () => { sink.destroy(); });
      source.pipe(sink);
    }
  });
  await new Promise<void>((listening) => { server.listen(0, "127.0.0.1", listening); });
  const cut = (): void => {
    for (const socket of sockets) {
      socket.destroy();
    }
    sockets.clear();
  };
  const address = `127.0.0.1:${String((server.address() as AddressInfo).port)}`;
  return { address, cut, close: () => { server.close(); cut(); } };
}

for (const [wire, option] of Object.entries(WIRES)) {
  suite(`over ${wire}`, () => {
    const group = `of-${wire}-${randomUUID().slice(0, 8)}`;
    const token = `dev:alice:${group}=editor`;
    let relay: Awaited<ReturnType<typeof relayed>>;
    let client: Coxswain;

    before(async () => {
      relay = await relayed();
      client = new Coxswain({ address: relay.address, token: () => Promise.resolve(token), ...option });
      await client.crews.createCrew({
        spec: {
          name: "letter",
          model: "offline/extract",
          agents: [{ name: "writer", role: "Writer", goal: "Write short letters" }],
          tasks: [
            {
              name: "write",
              description: "Shorten this text:\n\n{text}",
              expectedOutput: "One sentence",
              agent: "writer",
              humanApproval: true,
            },
          ],
        },
      });
    });

    after(() => {
      client.close();
      relay.close();
    });

    test("a start with a request id is one execution; a watch goes on over a cut; an approval ends it", async () => {
      const { id } = await client.start("letter", { text: TEXT }, { requestId: "order-1" });
      assert.equal((await client.start("letter", { text: TEXT }, { requestId: "order-1" })).id, id);
      const sequences: bigint[] = [];
      let last: string | undefined;
      for await (const { sequence, event } of client.watch(id)) {
        sequences.push(sequence);
        last = event.case;
        if (event.case === "questionRaised") {
          relay.cut();
          const question = await client.accept(event.value.questionId, "The ferry leaves at nine.");
          assert.equal(question.executionId, id);
        }
      }
      assert.equal(last, "executionSucceeded");
      assert.deepEqual(sequences, sequences.map((_, index) => BigInt(index + 1)));
      const { execution } = await client.executions.getExecution({ id });
      assert.equal(execution?.result?.text, "The ferry leaves at nine.");
      const rest = await client.watch(id, { afterSequence: sequences.at(-2) ?? 0n }).next();
      assert.equal(rest.value?.sequence, sequences.at(-1));
    });

    test("an execution is cancelled, also after its result was declined", async () => {
      const { id } = await client.start("letter", { text: TEXT });
      let declined = false;
      const kinds: (string | undefined)[] = [];
      for await (const { event } of client.watch(id, { excludeChunks: true })) {
        kinds.push(event.case);
        if (event.case === "questionRaised" && declined) {
          await client.cancel(id);
        } else if (event.case === "questionRaised") {
          await client.decline(event.value.questionId, "shorter");
          declined = true;
        }
      }
      assert.equal(kinds.filter((kind) => kind === "questionRaised").length, 2);
      assert.equal(kinds.at(-1), "executionCancelled");
    });

    test("the group's questions and events are watched over a cut", async () => {
      const questions = client.watchQuestions();
      const events = client.watchExecutions({ labels: { of: "the group" } });
      const { value: stands } = await events.next();
      assert.equal(stands.event, undefined);
      const { id } = await client.start("letter", { text: TEXT }, { labels: { of: "the group" } });
      const seen: bigint[] = [];
      for await (const { event } of events) {
        if (event) {
          seen.push(event.sequence);
        }
        if (event?.event.case === "questionRaised") {
          break;
        }
      }
      let open = (await questions.next()).value;
      while (open.question?.executionId !== id) {
        open = (await questions.next()).value;
      }
      relay.cut();
      await client.accept(open.question.id);
      const closed = (await questions.next()).value;
      assert.equal(closed.question?.id, open.question.id);
      assert(closed.sequence > open.sequence, "once each, over the cut");
      const later = client.watchExecutions({ labels: { of: "the group" }, afterPosition: stands.position });
      const all: bigint[] = [];
      for await (const { event } of later) {
        if (event?.sequence === 1n || event?.event.case === "executionSucceeded") {
          relay.cut();
        }
        if (event) {
          all.push(event.sequence);
        }
        if (event?.event.case === "executionSucceeded") {
          break;
        }
      }
      assert.deepEqual(all.slice(0, seen.length), seen);
      assert.deepEqual(all, [...new Set(all)].sort((a, b) => Number(a - b)));
    });

    test("errors are typed", async () => {
      await assert.rejects(client.start("letter", {}), (error) => {
        assert(error instanceof CoxswainError);
        assert.deepEqual([error.code, error.reason], [Code.InvalidArgument, "INVALID_FIELD"]);
        assert.deepEqual(error.violations.map(({ field }) => field), ["inputs.text"]);
        assert.notEqual(error.requestId, "");
        return true;
      });
      await assert.rejects(client.crews.getCrew({ key: { case: "name", value: "nobody" } }), { reason: "NOT_FOUND" });
      await assert.rejects(client.watch("0123456789").next(), { reason: "NOT_FOUND" });
      const stranger = new Coxswain({ address: relay.address, token: "nonsense", ...option });
      await assert.rejects(stranger.auth.whoAmI({}), { code: Code.Unauthenticated });
      stranger.close();
    });

    test("every service is reached, each at its address", async () => {
      const [auth, memory] = [relay.address, ADDRESS];
      const address = `auth=${auth},memory=${memory},models=${memory},orchestrator=${auth}`;
      const apart = new Coxswain({ address, token, ...option });
      assert.equal((await apart.auth.whoAmI({})).principal?.groupId, group);
      assert.notEqual((await apart.models.listModels({})).models.length, 0);
      assert.equal((await apart.memory.listNamespaces({})).namespaces.length, 0);
      assert.equal((await apart.crews.listCrews({})).crews.length, 1);
      apart.close();
    });

    test("a watch that is left ends, and nobody there is unavailable", async () => {
      const { id } = await client.start("letter", { text: TEXT });
      const leaving = new AbortController();
      await assert.rejects(async () => {
        for await (const event of client.watch(id, { signal: leaving.signal })) {
          assert.equal(event.executionId, id);
          leaving.abort();
        }
      }, { code: Code.Canceled });
      await client.cancel(id);
      const nobody = new Coxswain({ address: "127.0.0.1:9", ...option });
      await assert.rejects(nobody.watch(id, { maxOutageMs: 0 }).next(), { code: Code.Unavailable });
      nobody.close();
    });
  });
}

test("a list of addresses that is not complete is refused", () => {
  assert.throws(() => addressesOf("auth=a:1,models=b:2"), /none for memory; add memory=host:port/);
  assert.throws(() => addressesOf("auth=a:1,worker=b:2"), /no service is called "worker"/);
  const found = addressesOf("auth=a:1,memory=m:2,models=ipv4:10.0.0.1:3,10.0.0.2:3,orchestrator=o:4");
  assert.equal(found.models, "ipv4:10.0.0.1:3,10.0.0.2:3");
});
