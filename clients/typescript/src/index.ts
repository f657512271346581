/** Client of the Mattebox server: a photo goes in, a composite comes out. */

export type { BatchOptions, BatchResult, NamedPhoto, Photos } from "./batches.js";
export type { CallLimits } from "./calls.js";
export { Client } from "./client.js";
export type { ConnectionOptions } from "./connection.js";
export * from "./errors.js";
export {
  Background,
  type BackgroundText,
  type ColorName,
  type ImageFormat,
  type Matte,
  type MatteMethod,
  type Output,
  type RemovalOptions,
} from "./options.js";
export type { FileSource, PhotoSource, PixelFormat, RawPhoto } from "./photos.js";
export type {
  BoundingBox,
  Execution,
  Fidelity,
  Limits,
  Model,
  Models,
  RemovalResult,
  ResizePolicy,
  ResultFormat,
  ResultPixelFormat,
  Subject,
  Timings,
} from "./results.js";
export type { Pem, Tls } from "./security.js";
