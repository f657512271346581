/** The forms that a photo can have, and how each becomes bytes. */

import { readFile } from "node:fs/promises";

/** The order of the channels, which have 8 bits each. */
export type PixelFormat = "rgb" | "bgr" | "rgba" | "bgra" | "gray";

/** Bare pixels instead of an image file. */
export interface RawPhoto {
  /** The rows from top to bottom without padding: width x height x channels bytes. */
  readonly data: Uint8Array;
  /** The width in pixels. */
  readonly width: number;
  /** The height in pixels. */
  readonly height: number;
  /** The order of the channels. Default: "rgb". */
  readonly pixelFormat?: PixelFormat;
}

/** An image file that can be read again: its bytes, its path or file: URL, or a Blob. */
export type FileSource = Uint8Array | string | URL | Blob;

/** A photo: an image file, a stream of one (Node's or the web's), or bare pixels. */
export type PhotoSource = FileSource | AsyncIterable<Uint8Array> | RawPhoto;

/** Throws TypeError for a wrong type and RangeError for an empty path. Reads nothing. */
export function checkPhoto(photo: PhotoSource): void {
  if (isRaw(photo)) {
    if (!((photo.data as unknown) instanceof Uint8Array)) {
      throw new TypeError(`photo.data must be a Uint8Array, not ${kindOf(photo.data)}`);
    }
  } else if (!isStream(photo)) {
    checkFile(photo);
  }
}

/** Throws TypeError for a wrong type and RangeError for an empty path. Reads nothing. */
export function checkFile(source: FileSource): void {
  if (source === "") {
    throw new RangeError("the path is empty");
  }
  const fine =
    typeof source === "string" || source instanceof Uint8Array || source instanceof URL || source instanceof Blob;
  if (!fine) {
    throw new TypeError(`expected bytes, a path, a file: URL, a Blob, a stream or a raw photo, not ${kindOf(source)}`);
  }
}

/** Returns an image file's bytes, or bare pixels. Throws what reading throws. */
export async function readPhoto(photo: PhotoSource): Promise<Buffer | RawPhoto> {
  checkPhoto(photo);
  if (isRaw(photo)) {
    return photo;
  }
  return isStream(photo) ? await readStream(photo) : await readFileSource(photo);
}

/** Returns the bytes of an image file, without a copy where they are given. Throws what reading throws. */
export async function readFileSource(source: FileSource): Promise<Buffer> {
  if (source instanceof Uint8Array) {
    return bufferOf(source);
  }
  if (source instanceof Blob) {
    return Buffer.from(await source.arrayBuffer());
  }
  return await readFile(source);
}

/** Returns a Buffer over the same memory. */
export function bufferOf(bytes: Uint8Array): Buffer {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

async function readStream(stream: AsyncIterable<Uint8Array>): Promise<Buffer> {
  const parts: Uint8Array[] = [];
  for await (const part of stream) {
    if (!((part as unknown) instanceof Uint8Array)) {
      throw new TypeError(`the stream gave ${kindOf(part)}, not bytes: does it decode text?`);
    }
    parts.push(part);
  }
  return Buffer.concat(parts);
}

function isObject(value: unknown): value is object {
  return typeof value === "object" && value !== null;
}

function isRaw(photo: PhotoSource): photo is RawPhoto {
  return isObject(photo) && "data" in photo && "width" in photo && "height" in photo;
}

function isStream(photo: PhotoSource): photo is AsyncIterable<Uint8Array> {
  return isObject(photo) && Symbol.asyncIterator in photo;
}

function kindOf(value: unknown): string {
  const constructor = isObject(value) ? (value.constructor as { name: string } | undefined) : undefined;
  return value === null ? "null" : (constructor?.name ?? typeof value);
}
