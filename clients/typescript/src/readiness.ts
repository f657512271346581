/**
 * Whether a server answers requests.
 *
 * The client writes and reads the two messages of gRPC's health service as bytes: an empty request asks for the server
 * as a whole, and in the answer SERVING is field 1, a varint with the value 1.
 */

import { setTimeout as sleep } from "node:timers/promises";

import type { Client as GrpcClient, Metadata } from "@grpc/grpc-js";

import { type Calls, throwIfAborted } from "./calls.js";
import { DeadlineExceeded, Unavailable } from "./errors.js";

export const READY_TIMEOUT_S = 5;
const INTERVAL_S = 0.2;
const METHOD = "/grpc.health.v1.Health/Check";
const SERVING = Buffer.from([0x08, 0x01]);

/** Returns null if a server serves, else the reason why not. Throws MatteboxError for any other failure. */
export async function whyNotReady(
  calls: Calls,
  stub: GrpcClient,
  metadata: Metadata,
  timeoutS: number,
  signal: AbortSignal | undefined,
): Promise<string | null> {
  try {
    const answer = await calls.run<Buffer>(
      (options, done) => stub.makeUnaryRequest(METHOD, same, same, Buffer.alloc(0), metadata, options, done),
      timeoutS,
      signal,
    );
    return answer.response.equals(SERVING) ? null : "the server starts or drains";
  } catch (error) {
    if (error instanceof Unavailable) {
      return error.message;
    }
    throw error;
  }
}

/** Asks until a server serves. Throws DeadlineExceeded with the last reason why none does. */
export async function waitUntilReady(
  ask: (timeoutS: number) => Promise<string | null>,
  timeoutS: number,
  signal: AbortSignal | undefined,
): Promise<void> {
  const until = Date.now() + timeoutS * 1000;
  for (;;) {
    const left = Math.max(0, (until - Date.now()) / 1000);
    const reason = await reasonOf(ask, Math.min(READY_TIMEOUT_S, left));
    if (reason === null) {
      return;
    }
    if (Date.now() + INTERVAL_S * 1000 >= until) {
      const text = `no server was ready within ${timeoutS} s: ${reason}`;
      throw new DeadlineExceeded(text, { code: "DEADLINE_EXCEEDED" });
    }
    await sleep(INTERVAL_S * 1000);
    throwIfAborted(signal);
  }
}

async function reasonOf(ask: (timeoutS: number) => Promise<string | null>, timeoutS: number): Promise<string | null> {
  try {
    return await ask(timeoutS);
  } catch (error) {
    if (error instanceof DeadlineExceeded) {
      return error.message;
    }
    throw error;
  }
}

function same(bytes: Buffer): Buffer {
  return bytes;
}
