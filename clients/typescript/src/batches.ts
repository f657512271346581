/**
 * Many photos through one client, some at a time.
 *
 * Each photo is a call of its own. Therefore gRPC shares the photos among several servers and repeats each by itself,
 * the server knows each photo's deadline, and the restart of a server loses no photo.
 */

import { throwIfAborted } from "./calls.js";
import { checkBoolean, checkWhole } from "./checks.js";
import { checkPhoto, type PhotoSource } from "./photos.js";
import type { RemovalResult } from "./results.js";

const DEFAULT_CONCURRENCY = 8;

/** A photo, or the pair of an id and a photo. */
export type NamedPhoto = PhotoSource | readonly [id: string, photo: PhotoSource];

/** How many photos are under way, and in which order their results come. */
export interface BatchOptions {
  /** Largest number of photos under way, including results that wait for their turn. Default: 8. */
  readonly concurrency?: number | undefined;
  /** Whether results come in the order of `photos`, instead of as they finish. Default: false. */
  readonly ordered?: boolean | undefined;
  /** "raise" (default) ends the iteration with the first error; "return" puts errors into `BatchResult.error`. */
  readonly errors?: "raise" | "return" | undefined;
}

/** The options of a batch with their defaults filled in. */
export interface CheckedBatch {
  readonly concurrency: number;
  readonly ordered: boolean;
  readonly errors: "raise" | "return";
}

export const BATCH_OPTIONS = ["concurrency", "ordered", "errors"] as const;

/**
 * The outcome for one photo of a batch: either `result` or `error` is null. `id` is the photo's id, or its number from
 * "0" on where it has none. `error` is a `MatteboxError`, or the error of reading the photo.
 */
export type BatchResult =
  | { readonly id: string; readonly result: RemovalResult; readonly error: null }
  | { readonly id: string; readonly result: null; readonly error: Error };

/** Removes the background of one photo; the signal cancels it. */
export type RemoveOne = (photo: PhotoSource, signal: AbortSignal) => Promise<RemovalResult>;

/** The photos of a batch. */
export type Photos = Iterable<NamedPhoto> | AsyncIterable<NamedPhoto>;

/** A photo under way; `outcome` is null until its call has ended. */
interface Slot {
  readonly id: string;
  outcome: BatchResult | null;
}

/** Returns the options with their defaults. Throws TypeError and RangeError for options that are wrong. */
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

/** Keeps a number of photos under way until `photos` ends. */
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

  /** Yields outcomes, in order or as they finish. Throws what `photos` throws, and Cancelled for an aborted signal. */
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

  /** Asks `photos` for the next photo if there is room for it. Results are given out while it hasn't come. */
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

  /** Starts a photo's call. Throws TypeError for a photo or an id of a wrong type. */
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

  /** Takes the outcomes that have their turn. */
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
      this.#more = false; // an iterator that threw has ended
      throw this.#failure.error;
    }
  }

  /** Lets `photos` release what it holds. */
  async #end(): Promise<void> {
    if (!this.#more) {
      return;
    }
    const returned = Promise.resolve(this.#photos.return?.());
    if (this.#pulling) {
      returned.catch(() => undefined); // a generator ends only after the photo that it waits for, if that ever comes
    } else {
      await returned;
    }
  }
}

function isPair(item: NamedPhoto): item is readonly [id: string, photo: PhotoSource] {
  return Array.isArray(item);
}
