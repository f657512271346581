/** What a caller can ask for: typed options, checked when a call is made. */

import { access } from "node:fs/promises";
import { sep } from "node:path";

import { InvalidRequest } from "./errors.js";
import { checkFile, type FileSource } from "./photos.js";

export type MatteMethod = "guided" | "gaussian" | "grabcut" | "none";
export type ImageFormat = "png" | "jpeg" | "webp" | "raw";
export type ColorName = keyof typeof COLORS;

/** Red, green, blue, as CSS names them. */
const COLORS = {
  white: [255, 255, 255],
  black: [0, 0, 0],
  gray: [128, 128, 128],
  red: [255, 0, 0],
  green: [0, 128, 0],
  blue: [0, 0, 255],
  yellow: [255, 255, 0],
  orange: [255, 165, 0],
  purple: [128, 0, 128],
  pink: [255, 192, 203],
} as const;

/** What replaces the old background. Made by the functions of the same name: `Background.blur(12)`. */
export type Background =
  | { readonly kind: "color"; readonly rgb: readonly [red: number, green: number, blue: number] }
  | { readonly kind: "image"; readonly picture: FileSource }
  | { readonly kind: "blur"; readonly sigma: number | null }
  | { readonly kind: "transparent" };

/** A background in words; other strings are paths of pictures. */
export type BackgroundText = ColorName | "transparent" | "blur" | `blur:${number}` | `#${string}` | (string & {});

export const Background = {
  /** One sRGB colour, each channel 0 to 255. */
  color: (red: number, green: number, blue: number): Background => ({ kind: "color", rgb: [red, green, blue] }),
  /** A picture that covers the output. */
  image: (picture: FileSource): Background => ({ kind: "image", picture }),
  /** The photo without its subject, blurred; `sigma` in output pixels, up to 200; left out: the server's default. */
  blur: (sigma: number | null = null): Background => ({ kind: "blur", sigma }),
  /** None: the output has an alpha channel. */
  transparent: (): Background => ({ kind: "transparent" }),
} as const;

/** What comes back. */
export interface Output {
  /** Of the composite. Default: "png". */
  readonly format?: ImageFormat | undefined;
  /** 1 to 100, for jpeg and webp. Default: the server's. */
  readonly quality?: number | null | undefined;
  /** "original" (default), "model" (what the network saw), or the longest side in pixels. */
  readonly size?: "original" | "model" | number | undefined;
  /** Margin in pixels around the subject to which the output is cut. Default: the whole frame. */
  readonly crop?: number | null | undefined;
  /** Send the matte beside the composite. Default: false. */
  readonly includeAlpha?: boolean | undefined;
  /** Send the matte instead of a composite. Default: false. */
  readonly alphaOnly?: boolean | undefined;
}

/** How the matte is made, where the name of a method doesn't say enough. */
export interface Matte {
  /** Default: the server's. */
  readonly method?: MatteMethod | null | undefined;
  /** Side of the Gaussian kernel in pixels of the model's input, odd, 1 to 99, for "gaussian" only. */
  readonly blurKernel?: number | null | undefined;
  /** Leave the photo's own colours in the edge instead of estimating the subject's. Default: false. */
  readonly keepEdgeColors?: boolean | undefined;
}

/** Everything that one call can say beside the photo. */
export interface RemovalOptions {
  /** As `models` names it. Default: the server's default. */
  readonly model?: string | undefined;
  /** Label or labels of what is the subject. Default: everything but the background. */
  readonly keep?: string | Iterable<string> | undefined;
  /** A method, or a `Matte`. Default: the server's. */
  readonly matte?: MatteMethod | Matte | null | undefined;
  /** A colour name, "#rrggbb", "transparent", "blur", "blur:20", a picture's path, or a `Background`. Default: white. */
  readonly background?: Background | BackgroundText | URL | undefined;
  /** Format, size and extras. Default: a PNG of the photo's size. */
  readonly output?: Output | null | undefined;
}

export const REMOVAL_OPTIONS = ["model", "keep", "matte", "background", "output"] as const;
export const OUTPUT_OPTIONS = ["format", "quality", "size", "crop", "includeAlpha", "alphaOnly"] as const;
export const MATTE_OPTIONS = ["method", "blurKernel", "keepEdgeColors"] as const;

/** Throws InvalidRequest for words that are no background, TypeError for what is none at all. */
export async function parseBackground(background: Background | string | URL): Promise<Background> {
  if (background instanceof URL) {
    return Background.image(background);
  }
  if (typeof background !== "string") {
    return checkedBackground(background);
  }
  if (background === "transparent") {
    return Background.transparent();
  }
  if (background === "blur" || background.startsWith("blur:")) {
    return Background.blur(parseSigma(background));
  }
  if (background.startsWith("#")) {
    return Background.color(...parseHex(background));
  }
  if (Object.hasOwn(COLORS, background)) {
    const [red, green, blue] = COLORS[background as ColorName];
    return Background.color(red, green, blue);
  }
  return await pictureAt(background);
}

function checkedBackground(background: Background): Background {
  const kinds = Object.keys(Background);
  if (typeof background !== "object" || !kinds.includes((background as Background | null)?.kind ?? "")) {
    throw new TypeError("background must be a string, a URL or made by Background");
  }
  if (background.kind === "image") {
    checkFile(background.picture);
  }
  return background;
}

async function pictureAt(path: string): Promise<Background> {
  const looksLikeOne = path.includes(".") || path.includes(sep);
  if (path === "" || (!looksLikeOne && !(await exists(path)))) {
    const names = Object.keys(COLORS).join(", ");
    throw invalid(`'${path}' is no colour (${names}, #rrggbb), no file, not transparent or blur`);
  }
  return Background.image(path);
}

async function exists(path: string): Promise<boolean> {
  return await access(path).then(
    () => true,
    () => false,
  );
}

function parseSigma(text: string): number | null {
  if (text === "blur") {
    return null;
  }
  const sigma = text.slice("blur:".length).trim();
  if (sigma === "" || Number.isNaN(Number(sigma))) {
    throw invalid(`'${text}' must be blur or blur:SIGMA, such as blur:20`);
  }
  return Number(sigma);
}

function parseHex(text: string): [number, number, number] {
  const long = text.length === 4 ? text.replace(/[^#]/g, "$&$&") : text;
  const channels = /^#([0-9a-f]{2})([0-9a-f]{2})([0-9a-f]{2})$/i.exec(long)?.slice(1);
  if (channels === undefined) {
    throw invalid(`'${text}' must be #rgb or #rrggbb`);
  }
  const [red = 0, green = 0, blue = 0] = channels.map((digits) => parseInt(digits, 16));
  return [red, green, blue];
}

function invalid(description: string): InvalidRequest {
  return InvalidRequest.of([{ field: "background", description }]);
}
