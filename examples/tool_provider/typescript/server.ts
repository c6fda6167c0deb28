// Gives crews two tools over gRPC, and makes each call once, however often it arrives: npm start [HOST:PORT]
import * as grpc from "@grpc/grpc-js";
import { loadSync } from "@grpc/proto-loader";

// Both files of protos/coxswain/tools/v1; they need no others.
const protos = process.env.PROTOS ?? new URL("../../../protos", import.meta.url).pathname;
const loaded = loadSync("coxswain/tools/v1/tool_provider_service.proto", { includeDirs: [protos], keepCase: true, enums: String });
const { ToolProvider } = (grpc.loadPackageDefinition(loaded) as any).coxswain.tools.v1;

type Work = (number: string) => Promise<object>;
const tools: Record<string, { description: string; work: Work }> = {
  get_invoice: {
    description: "Return an invoice: its number, amount and currency.",
    work: async (number) => ({ number, amount: "120.50", currency: "EUR" }),
  },
  pay_invoice: {
    description: "Pay an invoice, and return the number of the payment.",
    work: async (number) => ({ payment: `P-${number}` }), // here the money would move
  },
};
const schema = JSON.stringify({ type: "object", properties: { number: { type: "string" } }, required: ["number"] });

// In memory. A real provider keeps its calls in its database, in the transaction that pays.
const started = Date.now() / 1000;
const calls = new Map<string, { done: Promise<object>; result?: object }>();

function begin(work: Work, number: string) {
  const call: { done: Promise<object>; result?: object } = {
    done: work(number).then(
      (value) => (call.result = { structured_json: JSON.stringify(value) }),
      () => (call.result = { text: "the call has failed; ask accounting", is_error: true }),
    ),
  };
  return call;
}

function numberIn(text: string): string | undefined {
  try {
    const { number } = JSON.parse(text);
    return typeof number === "string" ? number : undefined;
  } catch {
    return undefined;
  }
}

const provider: grpc.UntypedServiceImplementation = {
  ListTools(_: any, reply: any) {
    const listed = Object.entries(tools).map(([name, { description }]) => ({ name, description, input_schema_json: schema }));
    reply(null, { tools: listed });
  },
  async CallTool(stream: any) {
    const { call_id, tool, arguments_json } = stream.request;
    const repeated = calls.has(call_id);
    if (!repeated) {
      const number = numberIn(arguments_json);
      if (!Object.hasOwn(tools, tool)) return stream.emit("error", { code: grpc.status.NOT_FOUND, details: `there is no tool ${tool}` });
      if (number === undefined) return stream.emit("error", { code: grpc.status.INVALID_ARGUMENT, details: "number: has to be a text" });
      calls.set(call_id, begin(tools[tool].work, number));
    }
    stream.write({ accepted: { repeated } });
    stream.write({ result: await calls.get(call_id)!.done });
    stream.end();
  },
  GetCall({ request }: any, reply: any) {
    const call = calls.get(request.call_id);
    // A call that was sent before this start, or may have been, is not known to be new.
    const newer = Number(request.sent_time?.seconds ?? 0) > started + 60;
    if (!call) return reply(null, { state: newer ? "CALL_STATE_NEVER_SEEN" : "CALL_STATE_FORGOTTEN" });
    reply(null, call.result ? { state: "CALL_STATE_DONE", result: call.result } : { state: "CALL_STATE_RUNNING" });
  },
  CancelCall({ request }: any, reply: any) {
    const call = calls.get(request.call_id); // what has begun is finished
    reply(null, { state: !call ? "CALL_STATE_FORGOTTEN" : call.result ? "CALL_STATE_DONE" : "CALL_STATE_RUNNING" });
  },
};

const server = new grpc.Server();
server.addService(ToolProvider.service, provider);
server.bindAsync(process.argv[2] ?? "127.0.0.1:50062", grpc.ServerCredentials.createInsecure(), (error, port) => {
  if (error) throw error;
  console.log(`serving on port ${port}`);
});
