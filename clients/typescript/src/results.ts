/** Answers of the server as frozen, plain values. */

import { writeFile } from "node:fs/promises";

import * as pb from "./gen/mattebox/v1/background_removal.js";
import type { ImageFormat } from "./options.js";
import { millisecondsOf } from "./statuses.js";

/** Columns `x` to `x + width - 1`, rows `y` to `y + height - 1` of the output. */
export interface BoundingBox {
  readonly x: number;
  readonly y: number;
  readonly width: number;
  readonly height: number;
}

/** A subject that the network found. `coverage` is its share of the frame, above 0 and at most 1. */
export interface Subject {
  readonly label: string;
  readonly classIndex: number;
  readonly coverage: number;
  readonly box: BoundingBox;
}

/** The model that ran, and on what. `untrained` means that its weights are random, so that the matte is worthless. */
export interface Execution {
  readonly model: string;
  readonly weightsSha256: string;
  readonly provider: string;
  readonly precision: string;
  readonly batchSize: number;
  readonly untrained: boolean;
}

/** Milliseconds that each stage took in the server, on the wall clock; `matte` covers matte and blend. */
export interface Timings {
  readonly decode: number;
  readonly preprocess: number;
  readonly queue: number;
  readonly infer: number;
  readonly matte: number;
  readonly encode: number;
  readonly total: number;
}

/** A format; "unknown" for one of a newer server that this version has no word for. */
export type ResultFormat = ImageFormat | "unknown";

/** A layout of bare pixels; "unknown" for one of a newer server that this version has no word for. */
export type ResultPixelFormat = "rgb" | "rgba" | "gray" | "unknown";

/** The answer for one photo. */
export interface RemovalResult {
  /** The image file, or bare pixels for the format "raw". */
  readonly image: Buffer;
  /** The format of `image`. */
  readonly format: ResultFormat;
  /** The width of `image` in pixels. */
  readonly width: number;
  /** The height of `image` in pixels. */
  readonly height: number;
  /** The layout of `image` for the format "raw", else null. */
  readonly pixelFormat: ResultPixelFormat | null;
  /** The matte as an 8-bit grey PNG, if `includeAlpha` asked for it, else null. */
  readonly alpha: Buffer | null;
  /** The subjects, largest first; empty if the network found none. */
  readonly subjects: readonly Subject[];
  /** The model that ran, and on what. */
  readonly execution: Execution;
  /** The time that each stage took. */
  readonly timings: Timings;
  /** The call's id in the server's log. */
  readonly requestId: string;
  /** Writes `image` to a file unchanged: the file's suffix doesn't choose the format. */
  save(path: string | URL): Promise<void>;
}

/** How photos are brought to a model's input size; lengths in pixels; "unknown" for a way of a newer server. */
export type ResizePolicy =
  | { readonly policy: "short_side"; readonly shortSide: number; readonly maxLongSide: number }
  | { readonly policy: "stretch" | "letterbox"; readonly width: number; readonly height: number }
  | { readonly policy: "unknown" };

/**
 * How near a reduced precision comes to fp32 of the same network, on photos that it was not calibrated with.
 * `meanLevels` is the mean absolute difference of the foreground in grey levels, `medianIou` and `lowIou` are the median
 * and the fifth percentile of the intersection over union of the two subjects.
 */
export interface Fidelity {
  readonly photos: number;
  readonly meanLevels: number;
  readonly medianIou: number;
  readonly lowIou: number;
}

/** One model of the server. `untrained` means that its weights are random. */
export interface Model {
  readonly name: string;
  /** "unknown" for a kind of a newer server. */
  readonly kind: "semantic" | "saliency" | "unknown";
  readonly labels: readonly string[];
  readonly input: ResizePolicy;
  readonly precision: string;
  readonly provider: string;
  readonly weightsSha256: string;
  readonly untrained: boolean;
  readonly licence: string;
  /** Null if the model runs in neither bf16 nor int8. */
  readonly fidelity: Fidelity | null;
  /** The layers of an int8 model that compute in float. */
  readonly floatLayers: readonly string[];
  /** The licence forbids commercial use. */
  readonly nonCommercial: boolean;
}

/** The largest message in bytes, and the largest image in bytes and in pixels, that the server accepts. */
export interface Limits {
  readonly maxMessageBytes: number;
  readonly maxPhotoBytes: number;
  readonly maxPhotoPixels: number;
}

/** All models of a server. */
export interface Models {
  readonly models: readonly Model[];
  readonly default: string;
  readonly limits: Limits;
}

const FORMATS: ReadonlyMap<pb.ImageFormat, ResultFormat> = new Map<pb.ImageFormat, ResultFormat>([
  [pb.ImageFormat.IMAGE_FORMAT_PNG, "png"],
  [pb.ImageFormat.IMAGE_FORMAT_JPEG, "jpeg"],
  [pb.ImageFormat.IMAGE_FORMAT_WEBP, "webp"],
  [pb.ImageFormat.IMAGE_FORMAT_RAW, "raw"],
]);
const PIXEL_FORMATS: ReadonlyMap<pb.PixelFormat, ResultPixelFormat | null> = new Map<
  pb.PixelFormat,
  ResultPixelFormat | null
>([
  [pb.PixelFormat.PIXEL_FORMAT_UNSPECIFIED, null],
  [pb.PixelFormat.PIXEL_FORMAT_RGB8, "rgb"],
  [pb.PixelFormat.PIXEL_FORMAT_RGBA8, "rgba"],
  [pb.PixelFormat.PIXEL_FORMAT_GRAY8, "gray"],
]);
const KINDS: ReadonlyMap<pb.ModelKind, Model["kind"]> = new Map<pb.ModelKind, Model["kind"]>([
  [pb.ModelKind.MODEL_KIND_SEMANTIC, "semantic"],
  [pb.ModelKind.MODEL_KIND_SALIENCY, "saliency"],
]);

/** The execution of an answer that names none. */
const NOTHING_RAN: Execution = {
  model: "",
  weightsSha256: "",
  provider: "",
  precision: "",
  batchSize: 0,
  untrained: false,
};

/** Returns this package's form of an answer. */
export function parseResult(response: pb.RemoveBackgroundResponse, requestId: string): RemovalResult {
  const { image, width, height, alpha } = response;
  return Object.freeze({
    image,
    format: FORMATS.get(response.format) ?? "unknown",
    width,
    height,
    pixelFormat: pixelFormatOf(response.pixelFormat),
    alpha: alpha.length > 0 ? alpha : null,
    subjects: Object.freeze(response.subjects.map(subjectOf)),
    execution: Object.freeze({ ...NOTHING_RAN, ...response.execution }),
    timings: timingsOf(response.timings),
    requestId,
    async save(path: string | URL): Promise<void> {
      await writeFile(path, image);
    },
  });
}

/** Returns this package's form of a list of models. */
export function parseModels(response: pb.ListModelsResponse): Models {
  const { maxMessageBytes, maxPhotoBytes, maxPhotoPixels } = present(response.limits, "limits");
  return Object.freeze({
    models: Object.freeze(response.models.map(modelOf)),
    default: response.defaultModel,
    limits: Object.freeze({ maxMessageBytes, maxPhotoBytes, maxPhotoPixels }),
  });
}

function subjectOf({ label, classIndex, coverage, box }: pb.Subject): Subject {
  return Object.freeze({ label, classIndex, coverage, box: Object.freeze({ ...present(box, "box") }) });
}

function timingsOf(timings: pb.Timings | undefined): Timings {
  return Object.freeze({
    decode: millisecondsOf(timings?.decode),
    preprocess: millisecondsOf(timings?.preprocess),
    queue: millisecondsOf(timings?.queue),
    infer: millisecondsOf(timings?.infer),
    matte: millisecondsOf(timings?.matte),
    encode: millisecondsOf(timings?.encode),
    total: millisecondsOf(timings?.total),
  });
}

function modelOf(model: pb.Model): Model {
  return Object.freeze({
    name: model.name,
    kind: KINDS.get(model.kind) ?? "unknown",
    labels: Object.freeze(model.labels),
    input: Object.freeze(resizePolicyOf(model.input?.policy)),
    precision: model.precision,
    provider: model.provider,
    weightsSha256: model.weightsSha256,
    untrained: model.untrained,
    licence: model.licence,
    fidelity: model.fidelity === undefined ? null : Object.freeze(fidelityOf(model.fidelity)),
    floatLayers: Object.freeze(model.floatLayers),
    nonCommercial: model.nonCommercial,
  });
}

function fidelityOf({ photos, meanLevels, medianIou, lowIou }: pb.Fidelity): Fidelity {
  return { photos, meanLevels, medianIou, lowIou };
}

function pixelFormatOf(value: pb.PixelFormat): ResultPixelFormat | null {
  const found = PIXEL_FORMATS.get(value);
  return found === undefined ? "unknown" : found;
}

function resizePolicyOf(policy: pb.InputPolicy["policy"]): ResizePolicy {
  if (policy === undefined) {
    return { policy: "unknown" };
  }
  if (policy.$case === "shortSide") {
    const { shortSidePx, maxLongSidePx } = policy.value;
    return { policy: "short_side", shortSide: shortSidePx, maxLongSide: maxLongSidePx };
  }
  return { policy: policy.$case, width: policy.value.widthPx, height: policy.value.heightPx };
}

/** Returns a part that every answer has. Throws Error for an answer without it. */
function present<T>(value: T | undefined, field: string): T {
  if (value === undefined) {
    throw new Error(`the server's answer has no ${field}`);
  }
  return value;
}
