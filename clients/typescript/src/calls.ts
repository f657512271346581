/** One unary call: its deadline, its signal, its answer or its error. */

import type { CallOptions, ClientUnaryCall, Metadata, requestCallback } from "@grpc/grpc-js";

import { Cancelled, Unavailable } from "./errors.js";
import { fromStatus, requestIdOf } from "./statuses.js";

/** What every call can be told. */
export interface CallLimits {
  /** Seconds until the call is given up (default 60); null waits for ever. */
  readonly timeout?: number | null | undefined;
  /** Cancels the call, on the server too. */
  readonly signal?: AbortSignal | undefined;
}

/** An answer and the id under which the server's log has the call. */
export interface Answer<T> {
  readonly response: T;
  readonly requestId: string;
}

/** Starts a call of gRPC's. */
export type Start<T> = (options: CallOptions, done: requestCallback<T>) => ClientUnaryCall;

/** The calls of one client that are under way. */
export class Calls {
  readonly #running = new Set<ClientUnaryCall>();
  #closed = false;

  /**
   * Makes a call, and up to `retries` times again if its answer broke off: gRPC itself repeats only those of which no
   * part of an answer came. Throws MatteboxError; Error if the client is closed.
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
        begun.answer = requestIdOf(metadata) !== ""; // the server's first word; an error has it in its trailer
      });
    });
  }

  /** Cancels all, and lets none begin. */
  close(): void {
    this.#closed = true;
    for (const call of this.#running) {
      call.cancel();
    }
  }
}

/** Throws Cancelled. */
export function throwIfAborted(signal: AbortSignal | undefined): void {
  if (signal?.aborted === true) {
    throw cancelledBy(signal);
  }
}

function cancelledBy(signal: AbortSignal): Cancelled {
  return new Cancelled("the call was cancelled by its signal", { code: "CANCELLED", cause: signal.reason });
}
