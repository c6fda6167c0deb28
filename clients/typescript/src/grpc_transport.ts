/** A transport of Connect over @grpc/grpc-js: name resolution, load balancing and health checks are gRPC's own. */

import { once } from "node:events";

import * as grpc from "@grpc/grpc-js";
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import type { DescMessage, DescMethod, MessageInitShape, MessageShape } from "@bufbuild/protobuf";
import { ConnectError } from "@connectrpc/connect";
import type { Code, Transport } from "@connectrpc/connect";

import { StatusSchema } from "./gen/google/rpc/status_pb.js";

const MAX_MESSAGE_BYTES = 64 * 1024 * 1024;
const OPTIONS: grpc.ChannelOptions = {
  "grpc.max_receive_message_length": MAX_MESSAGE_BYTES,
  "grpc.max_send_message_length": MAX_MESSAGE_BYTES,
  // A watch may be quiet for long: ask whether the other end still lives.
  "grpc.keepalive_time_ms": 15_000,
  "grpc.keepalive_timeout_ms": 5_000,
  "grpc.initial_reconnect_backoff_ms": 100,
  "grpc.max_reconnect_backoff_ms": 2_000,
  // Calls are repeated above, for any transport.
  "grpc.enable_retries": 0,
  "grpc.service_config": JSON.stringify({ loadBalancingConfig: [{ round_robin: {} }] }),
};

/** A transport whose connection can be ended. */
export interface ClosableTransport extends Transport {
  close(): void;
}

/** A transport to a target of gRPC, such as `host:port` or `dns:///host:port`. */
export function grpcTransport(target: string, credentials: grpc.ChannelCredentials): ClosableTransport {
  const client = new grpc.Client(target, credentials, OPTIONS);
  return {
    unary(method, signal, timeoutMs, header, input) {
      return new Promise((resolve, reject) => {
        const call = client.makeUnaryRequest(
          pathOf(method),
          serializer(method.input),
          deserializer(method.output),
          create(method.input, input),
          metadataOf(header),
          options(timeoutMs),
          (error, message) => {
            if (error || message === undefined) {
              reject(connectError(error));
            } else {
              const empty = { header: new Headers(), trailer: new Headers() };
              resolve({ stream: false, service: method.parent, method, message, ...empty });
            }
          },
        );
        whenAborted(signal, () => { call.cancel(); });
      });
    },
    stream(method, signal, timeoutMs, header, input) {
      const call = client.makeBidiStreamRequest(
        pathOf(method),
        serializer(method.input),
        deserializer(method.output),
        metadataOf(header),
        options(timeoutMs),
      );
      // Whoever reads the messages hears of errors; without a reader they must not end the process.
      call.on("error", () => undefined);
      whenAborted(signal, () => { call.cancel(); });
      void send(call, method.input, input);
      const message = received(call);
      const empty = { header: new Headers(), trailer: new Headers() };
      return Promise.resolve({ stream: true, service: method.parent, method, message, ...empty });
    },
    close() {
      client.close();
    },
  };
}

async function send<I extends DescMessage, O>(
  call: grpc.ClientDuplexStream<MessageShape<I>, O>,
  schema: I,
  input: AsyncIterable<MessageInitShape<I>>,
): Promise<void> {
  try {
    for await (const each of input) {
      if (!call.write(create(schema, each))) {
        await once(call, "drain");
      }
    }
    call.end();
  } catch {
    call.cancel();
  }
}

async function* received<I, O>(call: grpc.ClientDuplexStream<I, O>): AsyncGenerator<O> {
  try {
    for await (const message of call as AsyncIterable<O>) {
      yield message;
    }
  } catch (error) {
    throw connectError(error);
  } finally {
    call.cancel();
  }
}

function pathOf(method: DescMethod): string {
  return `/${method.parent.typeName}/${method.name}`;
}

function serializer<T extends DescMessage>(schema: T): (message: MessageShape<T>) => Buffer {
  return (message) => Buffer.from(toBinary(schema, message));
}

function deserializer<T extends DescMessage>(schema: T): (bytes: Buffer) => MessageShape<T> {
  return (bytes) => fromBinary(schema, bytes);
}

function metadataOf(header: HeadersInit | undefined): grpc.Metadata {
  const metadata = new grpc.Metadata();
  new Headers(header).forEach((value, name) => { metadata.set(name, value); });
  return metadata;
}

function options(timeoutMs: number | undefined): grpc.CallOptions {
  return timeoutMs === undefined ? {} : { deadline: Date.now() + timeoutMs };
}

function whenAborted(signal: AbortSignal | undefined, cancel: () => void): void {
  if (signal?.aborted) {
    cancel();
  }
  signal?.addEventListener("abort", cancel, { once: true });
}

/** The error of a call with its details, as Connect has it. */
function connectError(error: unknown): ConnectError {
  const { code, details, metadata } = (error ?? {}) as Partial<grpc.ServiceError>;
  if (code === undefined) {
    return ConnectError.from(error);
  }
  // The numbers of codes are the same.
  const made = new ConnectError(details ?? "", code as unknown as Code);
  const status = metadata?.get("grpc-status-details-bin")[0];
  if (status instanceof Buffer) {
    const kept = fromBinary(StatusSchema, status).details;
    made.details = kept.map(({ typeUrl, value }) => ({ type: typeUrl.slice(typeUrl.lastIndexOf("/") + 1), value }));
  }
  return made;
}
