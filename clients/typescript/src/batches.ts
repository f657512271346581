/**
 * Many photos through one client, some at a time.
 *
 * They go as single calls, not on the contract's stream: so gRPC shares them among several servers and repeats each by
 * itself, each photo's deadline is known to the server, and a server that is restarted costs no photo.
 */

import { throwIfAborted } from "./calls.js";
import { checkBoolean, checkWhole } from "./checks.js";
import { checkPhoto, type PhotoSource } from "./photos.js";
import type { RemovalResult } from "./results.js";

const DEFAULT_CONCURRENCY = 8;

/** A photo, or its id and it. */
export type NamedPhoto = PhotoSource | readonly [id: string, photo: PhotoSource];

/** How many photos go through. */
export interface BatchOptions {
  /** Photos under way at a time, those included that wait to be given out. Default: 8. */
  readonly concurrency?: number | undefined;
  /** Give them out in the order of `photos`, else as they finish. Default: false. */
  readonly ordered?: boolean | undefined;
  /** "raise" (default) ends with the first error; "return" puts it into the `BatchResult` and goes on. */
  readonly errors?: "raise" | "return" | undefined;
}

/** The same, with the defaults. */
export interface CheckedBatch {
  readonly concurrency: number;
  readonly ordered: boolean;
  readonly errors: "raise" | "return";
}

export const BATCH_OPTIONS = ["concurrency", "ordered", "errors"] as const;

/**
 * What became of one photo of many: one of `result` and `error` is null. `id` came with the photo; else it is its
 * number, from "0" on. `error` is a `MatteboxError`, or what reading the photo threw.
 */
export type BatchResult =
  | { readonly id: string; readonly result: RemovalResult; readonly error: null }
  | { readonly id: string; readonly result: null; readonly error: Error };

/** Removes the background of one photo; the signal cancels it. */
export type RemoveOne = (photo: PhotoSource, signal: AbortSignal) => Promise<RemovalResult>;

/** Photos, one after the other. */
export type Photos = Iterable<NamedPhoto> | AsyncIterable<NamedPhoto>;

/** A photo under way; `outcome` once it is over. */
interface Slot {
  readonly id: string;
  outcome: BatchResult | null;
}

/** Throws TypeError and RangeError for options that are wrong. */
export function checkedBatch(photos: Photos, options: BatchOptions): CheckedBatch {
  const { concurrency = DEFAULT_CONCURRENCY, ordered = false, errors = "raise" } = options;
  checkWhole(concurrency, "concurrency");
  checkBoolean(ordered, "ordered");
  if (concurrency < 1) {
    throw new RangeError(`concurrency must be 1 or more, not ${concurrency}`);
  }
  if (!["raise", "return"].includes(errors)) {
    throw new RangeError(`errors must be 'raise' or 'return', not '${errors}'`);
  }
  const single = typeof photos !== "object" || (photos as unknown) === null || photos instanceof Uint8Array;
  if (single || !(Symbol.iterator in photos || Symbol.asyncIterator in photos)) {
    throw new TypeError("photos must be an iterable of photos; one photo is for removeBackground");
  }
  return { concurrency, ordered, errors };
}

/** Keeps a window of photos under way until there are no more. */
export class Batch {
  readonly #remove: RemoveOne;
  readonly #concurrency: number;
  readonly #ordered: boolean;
  readonly #photos: Iterator<NamedPhoto> | AsyncIterator<NamedPhoto>;
  readonly #abort = new AbortController();
  #slots: Slot[] = [];
  #taken = 0;
  #more = true;
  #pulling = false;
  #failure: { readonly error: unknown } | null = null;
  #wake: () => void = () => undefined;

  constructor(photos: Photos, remove: RemoveOne, options: CheckedBatch) {
    this.#remove = remove;
    this.#concurrency = options.concurrency;
    this.#ordered = options.ordered;
    this.#photos = Symbol.asyncIterator in photos ? photos[Symbol.asyncIterator]() : photos[Symbol.iterator]();
  }

  /** Outcomes, as they are to be given out. Throws what `photos` throws, and Cancelled. */
  async *run(signal: AbortSignal | undefined): AsyncGenerator<BatchResult, void, undefined> {
    const cancel = (): void => {
      this.#abort.abort(signal?.reason);
      this.#wake();
    };
    signal?.addEventListener("abort", cancel);
    try {
      while (this.#more || this.#slots.length > 0) {
        throwIfAborted(signal);
        const changed = new Promise<void>((resolve) => (this.#wake = resolve));
        this.#pull();
        const ready = this.#takeReady();
        yield* ready;
        if (ready.length === 0 && (this.#pulling || this.#slots.length > 0)) {
          await changed;
        }
        this.#throwFailure();
      }
    } finally {
      signal?.removeEventListener("abort", cancel);
      this.#abort.abort();
      await this.#end();
    }
  }

  /** Asks for the next photo if there is room for it; results go on meanwhile. */
  #pull(): void {
    if (!this.#more || this.#pulling || this.#slots.length >= this.#concurrency) {
      return;
    }
    this.#pulling = true;
    const pull = async (): Promise<void> => {
      try {
        const next = await this.#photos.next();
        this.#more = next.done !== true;
        if (next.done !== true && !this.#abort.signal.aborted) {
          this.#open(next.value);
        }
      } catch (error) {
        this.#failure = { error };
      }
      this.#pulling = false;
      this.#wake();
    };
    void pull();
  }

  /** Takes in a photo and starts it. Throws TypeError for what is none, or for an id that is none. */
  #open(item: NamedPhoto): void {
    const [id, photo] = isPair(item) ? item : [String(this.#taken), item];
    if (typeof id !== "string") {
      throw new TypeError(`the id of a photo must be a string, not ${typeof id}`);
    }
    checkPhoto(photo);
    this.#taken += 1;
    const slot: Slot = { id, outcome: null };
    this.#slots.push(slot);
    void this.#start(slot, photo);
  }

  async #start(slot: Slot, photo: PhotoSource): Promise<void> {
    try {
      slot.outcome = { id: slot.id, result: await this.#remove(photo, this.#abort.signal), error: null };
    } catch (error) {
      const found = error instanceof Error ? error : new Error(String(error), { cause: error });
      slot.outcome = { id: slot.id, result: null, error: found };
    }
    this.#wake();
  }

  /** What is finished and has its turn. */
  #takeReady(): BatchResult[] {
    const ready: BatchResult[] = [];
    for (const slot of this.#slots) {
      if (slot.outcome !== null) {
        ready.push(slot.outcome);
      } else if (this.#ordered) {
        break;
      }
    }
    this.#slots = this.#slots.filter((slot) => slot.outcome === null || !ready.includes(slot.outcome));
    return ready;
  }

  #throwFailure(): void {
    if (this.#failure !== null) {
      this.#more = false; // an iterator that has thrown has ended
      throw this.#failure.error;
    }
  }

  /** Lets `photos` clean up. */
  async #end(): Promise<void> {
    if (!this.#more) {
      return;
    }
    const returned = Promise.resolve(this.#photos.return?.());
    if (this.#pulling) {
      returned.catch(() => undefined); // a generator ends only after the photo that it is asked for, which may never come
    } else {
      await returned;
    }
  }
}

function isPair(item: NamedPhoto): item is readonly [id: string, photo: PhotoSource] {
  return Array.isArray(item);
}
