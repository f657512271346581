/**
 * Options and photos to the contract's message, and what is wrong with them, in the server's words.
 *
 * The checks are those of the server, so that a mistake reads the same wherever it is found; all are found in one pass.
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

const MAX_KEEP = 256;
const MAX_BLUR_KERNEL_PX = 99;
const MAX_BLUR_SIGMA_PX = 200;
const MAX_MARGIN_PX = 10_000;
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
const PIXEL_FORMATS: ReadonlyMap<string, { readonly value: pb.PixelFormat; readonly channels: number }> = new Map([
  ["rgb", { value: pb.PixelFormat.PIXEL_FORMAT_RGB8, channels: 3 }],
  ["bgr", { value: pb.PixelFormat.PIXEL_FORMAT_BGR8, channels: 3 }],
  ["rgba", { value: pb.PixelFormat.PIXEL_FORMAT_RGBA8, channels: 4 }],
  ["bgra", { value: pb.PixelFormat.PIXEL_FORMAT_BGRA8, channels: 4 }],
  ["gray", { value: pb.PixelFormat.PIXEL_FORMAT_GRAY8, channels: 1 }],
]);
const SIZES: ReadonlyMap<string, pb.SizeMode> = new Map([
  ["original", pb.SizeMode.SIZE_MODE_ORIGINAL],
  ["model", pb.SizeMode.SIZE_MODE_MODEL],
]);

/** A message without its photo, and what is wrong with it so far. */
interface Draft {
  readonly message: pb.RemoveBackgroundRequest;
  readonly wrong: Violations;
}

/** Collects what is wrong. */
class Violations {
  readonly #found: FieldViolation[] = [];

  check(fine: boolean, field: string, description: string): void {
    if (!fine) {
      this.#found.push({ field, description });
    }
  }

  /** What a word stands for. */
  word<T>(table: ReadonlyMap<string, T>, word: string, field: string): T | undefined {
    this.check(table.has(word), field, `must be one of ${[...table.keys()].join(", ")}, not '${word}'`);
    return table.get(word);
  }

  /** A number that the contract can hold, for which 0 would mean the default. */
  uint32(value: number, field: string, least: number, most = MAX_UINT32): number {
    checkWhole(value, field);
    this.check(value >= least, field, `must be ${least} or more${value < 0 ? `, not ${value}` : ""}`);
    this.check(value <= most, field, `must be at most ${most}, not ${value}`);
    return value;
  }

  throwIfAny(): void {
    if (this.#found.length > 0) {
      throw InvalidRequest.of(this.#found);
    }
  }
}

/** The contract's message of one call. Throws as the two parts do, with everything that is wrong at once. */
export async function buildRequest(photo: PhotoSource, options: RemovalOptions): Promise<pb.RemoveBackgroundRequest> {
  const { message, wrong } = await draft(options);
  return addPhoto(message, await readPhoto(photo), wrong);
}

/** The contract's message without its photo. Throws InvalidRequest, TypeError, what reading the picture throws. */
export async function optionsMessage(options: RemovalOptions): Promise<pb.RemoveBackgroundRequest> {
  const { message, wrong } = await draft(options);
  wrong.throwIfAny();
  return message;
}

/** A message of its own with a photo in it. Throws InvalidRequest, TypeError, what reading the photo throws. */
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
  // White is the server's default, and a matte alone has no background: saying it would contradict alpha_only.
  const unsaid = output.alphaOnly === true && background === "white";
  const labels = typeof keep === "string" ? [keep] : [...keep]; // a string is one label
  labels.forEach((label) => {
    checkString(label, "keep");
  });
  wrong.check(labels.length <= MAX_KEEP, "keep", `has ${labels.length} labels, the limit is ${MAX_KEEP}`);
  const kind = await parseBackground(background);
  const message: pb.RemoveBackgroundRequest = {
    model,
    photo: undefined,
    keep: labels,
    matte: matteMessage(matte, wrong),
    background: unsaid ? undefined : await backgroundMessage(kind, wrong),
    output: outputMessage(output, wrong),
  };
  checkContradictions(message, output, matte, wrong);
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
  wrong.check(filled.$case === "raw" || filled.value.length > 0, "encoded", "is empty");
  wrong.throwIfAny();
  return { ...options, photo: filled };
}

function matteMessage(matte: Matte, wrong: Violations): pb.Matte {
  const { keepEdgeColors = false, blurKernel = null } = matte;
  checkBoolean(keepEdgeColors, "matte.keepEdgeColors");
  const named = matte.method ?? null;
  const method = named === null ? undefined : wrong.word(METHODS, named, "matte.method");
  const name = (named ?? "guided").toUpperCase();
  if (blurKernel !== null) {
    checkWhole(blurKernel, "matte.blurKernel");
    const fine = blurKernel % 2 === 1 && blurKernel <= MAX_BLUR_KERNEL_PX;
    const field = "matte.blur_kernel_px";
    wrong.check(fine, field, `must be odd and at most ${MAX_BLUR_KERNEL_PX}, not ${blurKernel}`);
    wrong.check(name === "GAUSSIAN", field, "is for the method GAUSSIAN only");
  }
  if (keepEdgeColors) {
    const what = `is for GUIDED and GRABCUT only: ${name} keeps them anyway`;
    wrong.check(name !== "GAUSSIAN" && name !== "NONE", "matte.keep_edge_colors", what);
  }
  return {
    method: method ?? pb.MatteMethod.MATTE_METHOD_UNSPECIFIED,
    blurKernelPx: blurKernel ?? 0,
    keepEdgeColors,
  };
}

async function backgroundMessage(background: Background, wrong: Violations): Promise<pb.Background> {
  switch (background.kind) {
    case "color": {
      const [red, green, blue] = background.rgb;
      for (const [name, value] of Object.entries({ red, green, blue })) {
        wrong.uint32(value, `background.color.${name}`, 0, 255);
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

/** In pixels; 0 for the server's default. */
function blurSigma(sigma: number | null, wrong: Violations): number {
  if (sigma === null) {
    return 0;
  }
  if (typeof sigma !== "number") {
    throw new TypeError("background.sigma must be a number");
  }
  const fine = sigma > 0 && sigma <= MAX_BLUR_SIGMA_PX; // NaN is not
  const shown = Number(sigma.toPrecision(6));
  wrong.check(fine, "background.blur.sigma_px", `must be above 0 and at most ${MAX_BLUR_SIGMA_PX}, not ${shown}`);
  return sigma;
}

function outputMessage(output: Output, wrong: Violations): pb.Output {
  const { format = "png", quality = null, size = "original", crop = null } = output;
  const { includeAlpha = false, alphaOnly = false } = output;
  checkBoolean(includeAlpha, "output.includeAlpha");
  checkBoolean(alphaOnly, "output.alphaOnly");
  const known = wrong.word(FORMATS, format, "output.format");
  if (quality !== null) {
    checkWhole(quality, "output.quality");
    wrong.check(quality >= 1 && quality <= 100, "output.quality", `must be 1 to 100, not ${quality}`);
  }
  const margin = crop === null ? undefined : wrong.uint32(crop, "output.crop.margin_px", 0, MAX_MARGIN_PX);
  return {
    format: known ?? pb.ImageFormat.IMAGE_FORMAT_UNSPECIFIED,
    quality: quality ?? 0,
    size: sizeMessage(size, wrong),
    crop: margin === undefined ? undefined : { marginPx: margin },
    includeAlpha,
    alphaOnly,
  };
}

function sizeMessage(size: string | number, wrong: Violations): NonNullable<pb.Output["size"]> {
  if (typeof size === "number") {
    return { $case: "longestSidePx", value: wrong.uint32(size, "output.longest_side_px", 1) };
  }
  const mode = SIZES.get(size);
  const what = `must be original, model or a number of pixels, not '${size}'`;
  wrong.check(mode !== undefined, "output.size_mode", what);
  return { $case: "sizeMode", value: mode ?? pb.SizeMode.SIZE_MODE_UNSPECIFIED };
}

/** An option that would have no effect is refused rather than ignored. */
function checkContradictions(
  message: pb.RemoveBackgroundRequest,
  { format = "png", quality = null, includeAlpha = false, alphaOnly = false }: Output,
  matte: Matte,
  wrong: Violations,
): void {
  const name = FORMATS.has(format) ? format.toUpperCase() : "UNSPECIFIED";
  const lossy = format === "jpeg" || format === "webp";
  wrong.check(lossy || !quality, "output.quality", `is for JPEG and WEBP only, not for ${name}`);
  const opaque = format === "jpeg" && !includeAlpha;
  const what = `${name} can't be transparent: choose PNG, WEBP or RAW, or a background, or include_alpha beside it`;
  wrong.check(!(opaque && message.background?.kind?.$case === "transparent"), "output.format", what);
  if (alphaOnly) {
    wrong.check(!includeAlpha, "output.include_alpha", "makes no sense together with alpha_only");
    const alone = "makes no sense together with output.alpha_only";
    wrong.check(message.background === undefined, "background", alone);
    wrong.check(matte.keepEdgeColors !== true, "matte.keep_edge_colors", alone);
  }
}

function rawMessage(photo: RawPhoto, wrong: Violations): pb.RawImage {
  checkNames(photo, ["data", "width", "height", "pixelFormat"], "a raw photo");
  const width = wrong.uint32(photo.width, "raw.width", 1);
  const height = wrong.uint32(photo.height, "raw.height", 1);
  const name = photo.pixelFormat ?? "rgb";
  const known = wrong.word(PIXEL_FORMATS, name, "raw.pixel_format");
  const data = bufferOf(photo.data);
  const expected = width * height * (known?.channels ?? 0);
  const what = `has ${data.length} bytes, ${width}x${height} ${name.toUpperCase()}8 needs ${expected}`;
  wrong.check(known === undefined || data.length === expected, "raw.data", what);
  return { width, height, pixelFormat: known?.value ?? pb.PixelFormat.PIXEL_FORMAT_UNSPECIFIED, data };
}
