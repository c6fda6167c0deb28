/**
 * A backend that runs crews for its own users: each acts with their own token, and sees live what their crew does.
 *
 * Run it: COXSWAIN_ADDRESS=127.0.0.1:50051 PORT=8000 node server.js
 */

import { AsyncLocalStorage } from "node:async_hooks";
import { createServer } from "node:http";
import type { IncomingMessage, ServerResponse } from "node:http";

import { toJson } from "@bufbuild/protobuf";
import type { JsonObject } from "@bufbuild/protobuf";
import { Code, Coxswain, CoxswainError } from "coxswain-client";
import { ExecutionEventSchema, ExecutionSchema } from "coxswain-client/gen/coxswain/orchestrator/v1/execution_pb.js";
import type { Execution } from "coxswain-client/gen/coxswain/orchestrator/v1/execution_pb.js";

const CREW = "backend-letters-typescript";
const STATUS = new Map([
  [Code.InvalidArgument, 422],
  [Code.Unauthenticated, 401],
  [Code.PermissionDenied, 403],
  [Code.NotFound, 404],
  [Code.AlreadyExists, 409],
  [Code.Aborted, 409],
  [Code.FailedPrecondition, 409],
  [Code.ResourceExhausted, 429],
  [Code.Unavailable, 503],
  [Code.DeadlineExceeded, 504],
]);
const LARGEST_BODY = 1 << 20;

// One connection serves all users: whose token a call carries is a matter of the request that makes it.
const bearer = new AsyncLocalStorage<string>();
const client = new Coxswain({ token: () => bearer.getStore() ?? "" });

/** Stores the crew for the user's group, unless it is there. */
async function ensureCrew(): Promise<void> {
  const description = "Shorten this text:\n\n{text}";
  try {
    await client.crews.createCrew({
      spec: {
        name: CREW,
        model: "offline/extract", // any model of `coxswain models`
        agents: [{ name: "writer", role: "Writer", goal: "Write short letters" }],
        tasks: [{ name: "write", description, expectedOutput: "One sentence", agent: "writer", humanApproval: true }],
      },
    });
  } catch (error) {
    if (!(error instanceof CoxswainError && error.code === Code.AlreadyExists)) {
      throw error;
    }
  }
}

/** The part of an execution that users of this backend see. */
function shown(execution: Execution | undefined): JsonObject {
  if (execution === undefined) {
    throw new TypeError("an answer without an execution");
  }
  const fields = toJson(ExecutionSchema, execution, { useProtoFieldName: true }) as JsonObject;
  const kept = ["id", "state", "open_question_ids", "result", "error"];
  return Object.fromEntries(Object.entries(fields).filter(([name]) => kept.includes(name)));
}

/** Live progress as server-sent events. Browsers reconnect by themselves and go on behind the last event. */
async function follow(id: string, request: IncomingMessage, response: ServerResponse): Promise<void> {
  const afterSequence = BigInt(request.headers["last-event-id"]?.toString() ?? "0");
  // What is refused is refused before the stream begins.
  await client.executions.getExecution({ id });
  const gone = new AbortController();
  response.on("close", () => {
    gone.abort();
  });
  response.writeHead(200, { "Content-Type": "text/event-stream" });
  for await (const event of client.watch(id, { afterSequence, signal: gone.signal })) {
    const kind = (event.event.case ?? "").replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
    const data = JSON.stringify(toJson(ExecutionEventSchema, event));
    response.write(`id: ${event.sequence.toString()}\nevent: ${kind}\ndata: ${data}\n\n`);
  }
  response.end();
}

/** What a user sent; anything but a text counts as none. */
async function form(request: IncomingMessage): Promise<{ text: string | undefined; accept: boolean }> {
  const chunks: Buffer[] = [];
  let size = 0;
  for await (const chunk of request) {
    size += (chunk as Buffer).length;
    if (size > LARGEST_BODY) {
      throw new RangeError("the body is too large");
    }
    chunks.push(chunk as Buffer);
  }
  const { text, accept } = JSON.parse(Buffer.concat(chunks).toString()) as JsonObject;
  return { text: typeof text === "string" ? text : undefined, accept: accept === true };
}

/** Starts, shows, cancels and answers. The same Idempotency-Key starts once, however often it is sent. */
async function route(request: IncomingMessage, response: ServerResponse): Promise<void> {
  const [, resource, id = "", part] = (request.url ?? "").split("/");
  const send = (status: number, content: JsonObject): void => {
    response.writeHead(status, { "Content-Type": "application/json" }).end(JSON.stringify(content));
  };
  switch (`${request.method ?? ""} ${resource ?? ""}${id && " id"}${part ? ` ${part}` : ""}`) {
    case "POST letters": {
      const { text = "" } = await form(request);
      const key = request.headers["idempotency-key"]?.toString();
      await ensureCrew();
      send(202, shown(await client.start(CREW, { text }, key ? { requestId: key } : {})));
      return;
    }
    case "GET letters id":
      send(200, shown((await client.executions.getExecution({ id })).execution));
      return;
    case "GET letters id events":
      await follow(id, request, response);
      return;
    case "DELETE letters id":
      send(200, shown(await client.cancel(id)));
      return;
    case "POST questions id": {
      const { accept, text } = await form(request);
      const { state } = await (accept ? client.accept(id, text) : client.decline(id, text));
      send(200, { state });
      return;
    }
    default:
      send(404, { message: "no such page" });
  }
}

/** What Coxswain refuses, as HTTP has it: the reason to branch on, and the field to correct. */
function refuse(error: unknown, response: ServerResponse): void {
  if (response.headersSent) {
    response.destroy();
    return;
  }
  let status = 400;
  let content: JsonObject = { message: String(error) };
  if (error instanceof CoxswainError) {
    status = STATUS.get(error.code) ?? 502;
    const fields = Object.fromEntries(error.violations.map(({ field, description }) => [field, description]));
    content = { message: error.message, reason: error.reason, fields, request_id: error.requestId };
    if (error.retryAfterMs !== undefined) {
      response.setHeader("Retry-After", Math.floor(error.retryAfterMs / 1000) + 1);
    }
  }
  response.writeHead(status, { "Content-Type": "application/json" }).end(JSON.stringify(content));
}

const server = createServer((request, response) => {
  const token = (request.headers.authorization ?? "").replace(/^Bearer /, "");
  if (!token) {
    // Without one a call would be the development identity's.
    response.writeHead(401, { "WWW-Authenticate": "Bearer" }).end();
    return;
  }
  void bearer.run(token, () => route(request, response).catch((error: unknown) => { refuse(error, response); }));
});
server.listen(Number(process.env["PORT"] ?? "8000"), "127.0.0.1", () => {
  console.log("serving");
});
