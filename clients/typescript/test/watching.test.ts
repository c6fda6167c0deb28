/** How watches go on over connections that bring nothing; no server is needed. */

import assert from "node:assert/strict";
import { mock, test } from "node:test";

import { create } from "@bufbuild/protobuf";
import { Code, ConnectError } from "@connectrpc/connect";
import type { CallOptions, Client } from "@connectrpc/connect";

import type { QuestionService } from "../src/gen/coxswain/orchestrator/v1/question_service_pb.js";
import { WatchQuestionsResponseSchema } from "../src/gen/coxswain/orchestrator/v1/question_pb.js";
import { ErrorInfoSchema, RetryInfoSchema } from "../src/gen/google/rpc/error_details_pb.js";
import { watchQuestions } from "../src/watching.js";

const expired = new ConnectError("expired", Code.Unauthenticated, undefined, [
  { desc: ErrorInfoSchema, value: { reason: "CREDENTIAL_EXPIRED" } },
]);
const gone = new ConnectError("gone", Code.Unavailable);

/** Questions whose streams stand for some time, bring nothing and fail with one error each; then one question comes. */
function failing(errors: ConnectError[], stand: () => void): Client<typeof QuestionService> {
  const left = [...errors];
  async function* streams(_: unknown, options?: CallOptions): AsyncGenerator {
    await Promise.resolve();
    stand();
    if (options?.signal?.aborted) {
      throw new ConnectError("aborted", Code.Canceled);
    }
    const error = left.shift();
    if (error) {
      throw error;
    }
    yield create(WatchQuestionsResponseSchema, { sequence: 7n });
  }
  return { watchQuestions: streams } as unknown as Client<typeof QuestionService>;
}

test("connections that stood are no outage, and each may end with its token", async () => {
  let now = Date.now();
  const clock = mock.method(Date, "now", () => now);
  const errors = [gone, expired, expired, gone, gone];
  try {
    const { value } = await watchQuestions(failing(errors, () => { now += 200_000; }), {}).next();
    assert.equal(value.sequence, 7n);
    await assert.rejects(watchQuestions(failing([expired, expired], () => { now += 1_000; }), {}).next(), {
      reason: "CREDENTIAL_EXPIRED",
    });
  } finally {
    clock.mock.restore();
  }
});

test("a watch that is left does not wait for its pause", { timeout: 10_000 }, async () => {
  const leaving = new AbortController();
  const draining = new ConnectError("draining", Code.Unavailable, undefined, [
    { desc: RetryInfoSchema, value: { retryDelay: { seconds: 60n } } },
  ]);
  const next = watchQuestions(failing([draining], () => undefined), { signal: leaving.signal }).next();
  setImmediate(() => { leaving.abort(); });
  await assert.rejects(next, { code: Code.Canceled });
});
