/** One unary call: its deadline, its signal, its answer or its error. */

import type { CallOptions, ClientUnaryCall, Metadata, requestCallback } from "@grpc/grpc-js";

import { Cancelled, Unavailable } from "./errors.js";
import { fromStatus, requestIdOf } from "./statuses.js";

/** The limits of a call. */
export interface CallLimits {
  /** Seconds after which the call is given up (default 60); null waits for ever. */
  readonly timeout?: number | null | undefined;
  /** A signal that cancels the call, on the server too. */
  readonly signal?: AbortSignal | undefined;
}

/** An answer and the id under which the server's log has the call. */
export interface Answer<T> {
  readonly response: T;
  readonly requestId: string;
}

/** Starts a gRPC call. */
export type Start<T> = (options: CallOptions, done: requestCallback<T>) => ClientUnaryCall;

/** The calls of one client that are under way. */
export class Calls {
  readonly #running = new Set<ClientUnaryCall>();
  #closed = false;

  /**
   * Makes a call, and repeats it up to `retries` times if its answer breaks off: gRPC itself repeats only a call of
   * whose answer no part has come. Throws MatteboxError, and Error if the client is closed.
   */
  async run<T>(start: Start<T>, timeoutS: number, signal: AbortSignal | undefined, retries = 0): Promise<Answer<T>> {
    const until = Date.now() + timeoutS * 1000;
    for (let left = retries; ; left -= 1) {
      const begun = { answer: false };
      try {
        return await this.#attempt(start, until, signal, begun);
      } catch (error) {
        if (!(error instanceof Unavailable && begun.answer && left > 0)) {
          throw error;
        }
      }
    }
  }

  async #attempt<T>(
    start: Start<T>,
    until: number,
    signal: AbortSignal | undefined,
    begun: { answer: boolean },
  ): Promise<Answer<T>> {
    if (this.#closed) {
      throw new Error("the client is closed");
    }
    throwIfAborted(signal);
    return await new Promise((resolve, reject) => {
      let initial: Metadata | null = null;
      const call = start({ deadline: until }, (error, response) => {
        this.#running.delete(call);
        signal?.removeEventListener("abort", cancel);
        if (error !== null) {
          reject(signal?.aborted === true ? cancelledBy(signal) : fromStatus(error, initial));
        } else {
          resolve({ response: response as T, requestId: requestIdOf(initial) });
        }
      });
      const cancel = (): void => {
        call.cancel();
      };
      this.#running.add(call);
      signal?.addEventListener("abort", cancel);
      call.on("metadata", (metadata: Metadata) => {
        initial = metadata;
        begun.answer = requestIdOf(metadata) !== ""; // an answer begins with the request id, an error ends with it
      });
    });
  }

  /** Cancels all calls, and lets no other begin. */
  close(): void {
    this.#closed = true;
    for (const call of this.#running) {
      call.cancel();
    }
  }
}

/** Throws Cancelled if the signal is aborted. */
export function throwIfAborted(signal: AbortSignal | undefined): void {
  if (signal?.aborted === true) {
    throw cancelledBy(signal);
  }
}

function cancelledBy(signal: AbortSignal): Cancelled {
  return new Cancelled("the call was cancelled by its signal", { code: "CANCELLED", cause: signal.reason });
}
