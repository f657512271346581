/** The options of a removal, and backgrounds in words. */

import { access } from "node:fs/promises";
import { sep } from "node:path";

import { InvalidRequest } from "./errors.js";
import { checkFile, type FileSource } from "./photos.js";

export type MatteMethod = "guided" | "gaussian" | "grabcut" | "none";
export type ImageFormat = "png" | "jpeg" | "webp" | "raw";
export type ColorName = keyof typeof COLORS;

/** The colours that have names, as CSS defines them: red, green, blue. */
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

/** What replaces the old background. Functions of the same name make it, such as `Background.blur(12)`. */
export type Background =
  | { readonly kind: "color"; readonly rgb: readonly [red: number, green: number, blue: number] }
  | { readonly kind: "image"; readonly picture: FileSource }
  | { readonly kind: "blur"; readonly sigma: number | null }
  | { readonly kind: "transparent" };

/** A background in words; any other string is the path of a picture. */
export type BackgroundText = ColorName | "transparent" | "blur" | `blur:${number}` | `#${string}` | (string & {});

export const Background = {
  /** One sRGB colour, each channel 0 to 255. */
  color: (red: number, green: number, blue: number): Background => ({ kind: "color", rgb: [red, green, blue] }),
  /** A picture that covers the output. */
  image: (picture: FileSource): Background => ({ kind: "image", picture }),
  /** The photo without its subject, blurred; `sigma` is in output pixels, up to 200. Default: the server's. */
  blur: (sigma: number | null = null): Background => ({ kind: "blur", sigma }),
  /** No background: the output has an alpha channel. */
  transparent: (): Background => ({ kind: "transparent" }),
} as const;

/** The form of the answer. */
export interface Output {
  /** The format of the composite. Default: "png". */
  readonly format?: ImageFormat | undefined;
  /** The quality of jpeg and webp, 1 to 100. Default: the server's. */
  readonly quality?: number | null | undefined;
  /** "original" (default), "model" (the size that the network sees), or the longest side in pixels. */
  readonly size?: "original" | "model" | number | undefined;
  /** The margin in pixels around the subject, to which the output is cropped. Default: no crop. */
  readonly crop?: number | null | undefined;
  /** Whether the matte comes beside the composite. Default: false. */
  readonly includeAlpha?: boolean | undefined;
  /** Whether the matte comes instead of a composite. Default: false. */
  readonly alphaOnly?: boolean | undefined;
}

/** How the matte is made, in more detail than the name of a method. */
export interface Matte {
  /** The method. Default: the server's. */
  readonly method?: MatteMethod | null | undefined;
  /** The side of the Gaussian kernel in pixels of the model's input, odd, 1 to 99; for "gaussian" only. */
  readonly blurKernel?: number | null | undefined;
  /** Whether the edge keeps the photo's colours, instead of estimated colours of the subject. Default: false. */
  readonly keepEdgeColors?: boolean | undefined;
}

/** The options of one removal. */
export interface RemovalOptions {
  /** The model's name, as `models` lists it. Default: the server's default model. */
  readonly model?: string | undefined;
  /** The label or the labels of the subject. Default: everything but the background. */
  readonly keep?: string | Iterable<string> | undefined;
  /** A method, or a `Matte`. Default: the server's. */
  readonly matte?: MatteMethod | Matte | null | undefined;
  /** A colour ("red", "#rrggbb"), "transparent", "blur", "blur:20", a picture's path, or a `Background`. Default: white. */
  readonly background?: Background | BackgroundText | URL | undefined;
  /** The form of the answer. Default: a PNG of the photo's size. */
  readonly output?: Output | null | undefined;
}

export const REMOVAL_OPTIONS = ["model", "keep", "matte", "background", "output"] as const;
export const OUTPUT_OPTIONS = ["format", "quality", "size", "crop", "includeAlpha", "alphaOnly"] as const;
export const MATTE_OPTIONS = ["method", "blurKernel", "keepEdgeColors"] as const;

/** Returns the background that words stand for. Throws InvalidRequest for other words, TypeError for a wrong type. */
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
    throw invalid(`'${path}' must be a colour (${names}, #rrggbb), transparent, blur, or the path of a picture`);
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
