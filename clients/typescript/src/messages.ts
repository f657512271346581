/**
 * Options and photos to the contract's message.
 *
 * This module finds only what a message can't express: words that have no value in the contract, and numbers that a
 * field can't hold or that would mean the server's default. The server finds everything else, and names each field.
 */

import { checkBoolean, checkNames, checkString, checkWhole } from "./checks.js";
import { type FieldViolation, InvalidRequest } from "./errors.js";
import * as pb from "./gen/mattebox/v1/background_removal.js";
import {
  type Background,
  type Matte,
  MATTE_OPTIONS,
  type Output,
  OUTPUT_OPTIONS,
  parseBackground,
  type RemovalOptions,
} from "./options.js";
import { bufferOf, type PhotoSource, type RawPhoto, readFileSource, readPhoto } from "./photos.js";

const MAX_UINT32 = 2 ** 32 - 1;

const METHODS: ReadonlyMap<string, pb.MatteMethod> = new Map([
  ["guided", pb.MatteMethod.MATTE_METHOD_GUIDED],
  ["gaussian", pb.MatteMethod.MATTE_METHOD_GAUSSIAN],
  ["grabcut", pb.MatteMethod.MATTE_METHOD_GRABCUT],
  ["none", pb.MatteMethod.MATTE_METHOD_NONE],
]);
const FORMATS: ReadonlyMap<string, pb.ImageFormat> = new Map([
  ["png", pb.ImageFormat.IMAGE_FORMAT_PNG],
  ["jpeg", pb.ImageFormat.IMAGE_FORMAT_JPEG],
  ["webp", pb.ImageFormat.IMAGE_FORMAT_WEBP],
  ["raw", pb.ImageFormat.IMAGE_FORMAT_RAW],
]);
const PIXEL_FORMATS: ReadonlyMap<string, pb.PixelFormat> = new Map([
  ["rgb", pb.PixelFormat.PIXEL_FORMAT_RGB8],
  ["bgr", pb.PixelFormat.PIXEL_FORMAT_BGR8],
  ["rgba", pb.PixelFormat.PIXEL_FORMAT_RGBA8],
  ["bgra", pb.PixelFormat.PIXEL_FORMAT_BGRA8],
  ["gray", pb.PixelFormat.PIXEL_FORMAT_GRAY8],
]);
const SIZES: ReadonlyMap<string, pb.SizeMode> = new Map([
  ["original", pb.SizeMode.SIZE_MODE_ORIGINAL],
  ["model", pb.SizeMode.SIZE_MODE_MODEL],
]);

/** A message without its photo, and what it can't express. */
interface Draft {
  readonly message: pb.RemoveBackgroundRequest;
  readonly wrong: Violations;
}

/** Collects what a message can't express. */
class Violations {
  readonly #found: FieldViolation[] = [];

  check(fine: boolean, field: string, description: string): void {
    if (!fine) {
      this.#found.push({ field, description });
    }
  }

  /** Returns the value that a word stands for; undefined if there is none. */
  word<T>(table: ReadonlyMap<string, T>, word: string, field: string): T | undefined {
    this.check(table.has(word), field, `must be one of ${[...table.keys()].join(", ")}, not '${word}'`);
    return table.get(word);
  }

  /** Returns a number that a field can hold; `least` is 1 where 0 would mean the server's default. */
  uint32(value: number, field: string, least: number): number {
    checkWhole(value, field);
    const bound = value < least ? `${least} or more` : `at most ${MAX_UINT32}`;
    this.check(value >= least && value <= MAX_UINT32, field, `must be ${bound}, not ${value}`);
    return value;
  }

  throwIfAny(): void {
    if (this.#found.length > 0) {
      throw InvalidRequest.of(this.#found);
    }
  }
}

/** Returns the message of one call. Throws what `optionsMessage` and `withPhoto` throw. */
export async function buildRequest(photo: PhotoSource, options: RemovalOptions): Promise<pb.RemoveBackgroundRequest> {
  const { message, wrong } = await draft(options);
  return addPhoto(message, await readPhoto(photo), wrong);
}

/**
 * Returns the message of a call without its photo. Throws InvalidRequest for options that a message can't express,
 * TypeError for those of a wrong type, and what reading the background's picture throws.
 */
export async function optionsMessage(options: RemovalOptions): Promise<pb.RemoveBackgroundRequest> {
  const { message, wrong } = await draft(options);
  wrong.throwIfAny();
  return message;
}

/** Returns a copy of a message with a photo in it. Throws InvalidRequest, TypeError, and what reading it throws. */
export async function withPhoto(
  options: pb.RemoveBackgroundRequest,
  photo: PhotoSource,
): Promise<pb.RemoveBackgroundRequest> {
  return addPhoto(options, await readPhoto(photo), new Violations());
}

async function draft(options: RemovalOptions): Promise<Draft> {
  const wrong = new Violations();
  const output = options.output ?? {};
  checkNames(output, OUTPUT_OPTIONS, "output");
  const given = options.matte ?? {};
  const matte = typeof given === "string" ? { method: given } : given;
  checkNames(matte, MATTE_OPTIONS, "matte");
  const { model = "", keep = [], background = "white" } = options;
  checkString(model, "model");
  const labels = typeof keep === "string" ? [keep] : [...keep]; // a string is one label
  labels.forEach((label) => {
    checkString(label, "keep");
  });
  // White is the server's default, and a matte alone has no background: sending white would contradict alphaOnly.
  const unsaid = output.alphaOnly === true && background === "white";
  const message: pb.RemoveBackgroundRequest = {
    model,
    photo: undefined,
    keep: labels,
    matte: matteMessage(matte, wrong),
    background: unsaid ? undefined : await backgroundMessage(await parseBackground(background), wrong),
    output: outputMessage(output, wrong),
  };
  return { message, wrong };
}

function addPhoto(
  options: pb.RemoveBackgroundRequest,
  photo: Buffer | RawPhoto,
  wrong: Violations,
): pb.RemoveBackgroundRequest {
  const filled: pb.RemoveBackgroundRequest["photo"] = Buffer.isBuffer(photo)
    ? { $case: "encoded", value: photo }
    : { $case: "raw", value: rawMessage(photo, wrong) };
  wrong.throwIfAny();
  return { ...options, photo: filled };
}

function matteMessage(matte: Matte, wrong: Violations): pb.Matte {
  const { method = null, blurKernel = null, keepEdgeColors = false } = matte;
  checkBoolean(keepEdgeColors, "matte.keepEdgeColors");
  const known = method === null ? undefined : wrong.word(METHODS, method, "matte.method");
  return {
    method: known ?? pb.MatteMethod.MATTE_METHOD_UNSPECIFIED,
    blurKernelPx: blurKernel === null ? 0 : wrong.uint32(blurKernel, "matte.blur_kernel_px", 1),
    keepEdgeColors,
  };
}

async function backgroundMessage(background: Background, wrong: Violations): Promise<pb.Background> {
  switch (background.kind) {
    case "color": {
      const [red, green, blue] = background.rgb;
      for (const [name, value] of Object.entries({ red, green, blue })) {
        wrong.uint32(value, `background.color.${name}`, 0);
      }
      return { kind: { $case: "color", value: { red, green, blue } } };
    }
    case "image":
      return { kind: { $case: "image", value: await readFileSource(background.picture) } };
    case "blur":
      return { kind: { $case: "blur", value: { sigmaPx: blurSigma(background.sigma, wrong) } } };
    case "transparent":
      return { kind: { $case: "transparent", value: {} } };
  }
}

/** Returns the sigma in pixels; 0 stands for the server's default. */
function blurSigma(sigma: number | null, wrong: Violations): number {
  if (sigma === null) {
    return 0;
  }
  if (typeof sigma !== "number") {
    throw new TypeError("background.sigma must be a number");
  }
  wrong.check(Math.fround(sigma) !== 0, "background.blur.sigma_px", `must be above 0, not ${sigma}`);
  return sigma;
}

function outputMessage(output: Output, wrong: Violations): pb.Output {
  const { format = "png", quality = null, size = "original", crop = null } = output;
  const { includeAlpha = false, alphaOnly = false } = output;
  checkBoolean(includeAlpha, "output.includeAlpha");
  checkBoolean(alphaOnly, "output.alphaOnly");
  return {
    format: wrong.word(FORMATS, format, "output.format") ?? pb.ImageFormat.IMAGE_FORMAT_UNSPECIFIED,
    quality: quality === null ? 0 : wrong.uint32(quality, "output.quality", 1),
    size: sizeMessage(size, wrong),
    crop: crop === null ? undefined : { marginPx: wrong.uint32(crop, "output.crop.margin_px", 0) },
    includeAlpha,
    alphaOnly,
  };
}

function sizeMessage(size: string | number, wrong: Violations): NonNullable<pb.Output["size"]> {
  if (typeof size === "number") {
    return { $case: "longestSidePx", value: wrong.uint32(size, "output.longest_side_px", 0) };
  }
  const mode = SIZES.get(size);
  const what = `must be original, model or a number of pixels, not '${size}'`;
  wrong.check(mode !== undefined, "output.size_mode", what);
  return { $case: "sizeMode", value: mode ?? pb.SizeMode.SIZE_MODE_UNSPECIFIED };
}

function rawMessage(photo: RawPhoto, wrong: Violations): pb.RawImage {
  checkNames(photo, ["data", "width", "height", "pixelFormat"], "a raw photo");
  const { width, height, data, pixelFormat = "rgb" } = photo;
  return {
    width: wrong.uint32(width, "raw.width", 0),
    height: wrong.uint32(height, "raw.height", 0),
    pixelFormat: wrong.word(PIXEL_FORMATS, pixelFormat, "raw.pixel_format") ?? pb.PixelFormat.PIXEL_FORMAT_UNSPECIFIED,
    data: bufferOf(data),
  };
}
