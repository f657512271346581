/** The client of a Mattebox server. */

import type { Metadata } from "@grpc/grpc-js";

import {
  Batch,
  BATCH_OPTIONS,
  type BatchOptions,
  type BatchResult,
  type CheckedBatch,
  checkedBatch,
  type Photos,
} from "./batches.js";
import { type CallLimits, Calls } from "./calls.js";
import { checkedTimeout, checkNames } from "./checks.js";
import { connectionOf, type ConnectionOptions, DEFAULT_ADDRESS } from "./connection.js";
import {
  BackgroundRemovalServiceClient,
  type ListModelsResponse,
  type RemoveBackgroundRequest,
  type RemoveBackgroundResponse,
} from "./gen/mattebox/v1/background_removal.js";
import { buildRequest, optionsMessage, withPhoto } from "./messages.js";
import { REMOVAL_OPTIONS, type RemovalOptions } from "./options.js";
import type { PhotoSource } from "./photos.js";
import { READY_TIMEOUT_S, waitUntilReady, whyNotReady } from "./readiness.js";
import { type Models, parseModels, parseResult, type RemovalResult } from "./results.js";

const DEFAULT_TIMEOUT_S = 60;
const LIMITS = ["timeout", "signal"] as const;

/**
 * Calls a Mattebox server. Close it when it is no longer needed.
 *
 * ```ts
 * const client = new Client("127.0.0.1:50051");
 * const result = await client.removeBackground("photo.jpg", { background: "transparent" });
 * await result.save("cutout.png");
 * client.close();
 * ```
 */
export class Client {
  readonly #calls = new Calls();
  readonly #stub: BackgroundRemovalServiceClient;
  readonly #metadata: Metadata;
  readonly #retries: number;

  /**
   * @param address - HOST:PORT of one server; or a list of IP:PORT, or "dns:///NAME:PORT" for all addresses of a name:
   *   several servers are used in turn.
   * @param options - TLS, token, retries and limits.
   * @throws RangeError and TypeError for a wrong argument; Node's own errors for a file of `tls` that can't be read.
   */
  constructor(address: string | readonly string[] = DEFAULT_ADDRESS, options: ConnectionOptions = {}) {
    const connection = connectionOf(address, options);
    this.#stub = new BackgroundRemovalServiceClient(connection.target, connection.credentials, connection.options);
    this.#metadata = connection.metadata;
    this.#retries = connection.retries;
  }

  /**
   * Removes the background of one photo.
   *
   * @param photo - An image file as bytes, path, file: URL, Blob or stream; or a `RawPhoto`.
   * @param options - The options of the removal, `timeout` (seconds from sending to the answer; default 60, null waits
   *   for ever) and `signal`.
   * @throws MatteboxError: the call failed, or a message can't express the options (`InvalidRequest`).
   */
  async removeBackground(photo: PhotoSource, options: RemovalOptions & CallLimits = {}): Promise<RemovalResult> {
    checkNames(options, [...REMOVAL_OPTIONS, ...LIMITS], "removeBackground");
    const timeoutS = timeoutOf(options);
    return await this.#remove(await buildRequest(photo, options), timeoutS, options.signal);
  }

  /**
   * Removes the backgrounds of many photos, some at a time, all with the same options.
   *
   * A photo is taken when there is room for it, so `photos` may be an endless generator. Leaving the loop early cancels
   * the photos that are under way, and so does the signal.
   *
   * @param photos - Photos, or pairs of an id and a photo; photos without ids are numbered from "0" on.
   * @param options - The options of `removeBackground`, where `timeout` is for each photo, and `BatchOptions`.
   * @throws MatteboxError: a message can't express the options, or a call failed and `errors` is "raise".
   */
  removeBackgrounds(
    photos: Photos,
    options: RemovalOptions & CallLimits & BatchOptions = {},
  ): AsyncGenerator<BatchResult, void, undefined> {
    checkNames(options, [...REMOVAL_OPTIONS, ...LIMITS, ...BATCH_OPTIONS], "removeBackgrounds");
    return this.#removeMany(photos, options, checkedBatch(photos, options), timeoutOf(options));
  }

  /** Returns the server's models and limits. Throws MatteboxError. */
  async models(limits: CallLimits = {}): Promise<Models> {
    checkNames(limits, LIMITS, "models");
    const { response } = await this.#calls.run<ListModelsResponse>(
      (options, done) => this.#stub.listModels({}, this.#metadata, options, done),
      timeoutOf(limits),
      limits.signal,
    );
    return parseModels(response);
  }

  /** Whether a server answers requests now (default timeout 5 s). Throws MatteboxError for any other failure. */
  async ready(limits: CallLimits = {}): Promise<boolean> {
    checkNames(limits, LIMITS, "ready");
    return (await this.#whyNotReady(timeoutOf(limits, READY_TIMEOUT_S), limits.signal)) === null;
  }

  /** Waits until a server answers requests. Throws DeadlineExceeded, with the reason, if none does in time. */
  async waitUntilReady(limits: CallLimits = {}): Promise<void> {
    checkNames(limits, LIMITS, "waitUntilReady");
    await waitUntilReady((timeoutS) => this.#whyNotReady(timeoutS, limits.signal), timeoutOf(limits), limits.signal);
  }

  /** Closes the connection and cancels all calls. Closing again does nothing. */
  close(): void {
    this.#calls.close();
    this.#stub.close();
  }

  /** Closes the client at the end of an `await using` block. */
  [Symbol.asyncDispose](): Promise<void> {
    this.close();
    return Promise.resolve();
  }

  async *#removeMany(
    photos: Photos,
    options: RemovalOptions & CallLimits,
    batch: CheckedBatch,
    timeoutS: number,
  ): AsyncGenerator<BatchResult, void, undefined> {
    const message = await optionsMessage(options);
    const remove = async (photo: PhotoSource, signal: AbortSignal): Promise<RemovalResult> =>
      await this.#remove(await withPhoto(message, photo), timeoutS, signal);
    for await (const item of new Batch(photos, remove, batch).run(options.signal)) {
      if (item.error !== null && batch.errors === "raise") {
        throw item.error;
      }
      yield item;
    }
  }

  async #remove(
    request: RemoveBackgroundRequest,
    timeoutS: number,
    signal: AbortSignal | undefined,
  ): Promise<RemovalResult> {
    const { response, requestId } = await this.#calls.run<RemoveBackgroundResponse>(
      (options, done) => this.#stub.removeBackground(request, this.#metadata, options, done),
      timeoutS,
      signal,
      this.#retries,
    );
    return parseResult(response, requestId);
  }

  async #whyNotReady(timeoutS: number, signal: AbortSignal | undefined): Promise<string | null> {
    return await whyNotReady(this.#calls, this.#stub, this.#metadata, timeoutS, signal);
  }
}

function timeoutOf({ timeout }: CallLimits, defaultS = DEFAULT_TIMEOUT_S): number {
  return checkedTimeout(timeout === undefined ? defaultS : timeout);
}
