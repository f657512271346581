/** Checks of types and names, which JavaScript itself would skip. */

/** Throws TypeError for a name that is no option: a misspelt option would have no effect. */
export function checkNames(options: object, known: readonly string[], what: string): void {
  if (typeof options !== "object" || (options as unknown) === null) {
    throw new TypeError(`${what} must be an object, not ${typeof options}`);
  }
  const unknown = Object.keys(options).find((name) => !known.includes(name));
  if (unknown !== undefined) {
    throw new TypeError(`${what} has no option '${unknown}'; its options are ${known.join(", ")}`);
  }
}

/** Throws TypeError for a value that is not a whole number. */
export function checkWhole(value: number, what: string): void {
  if (!Number.isInteger(value)) {
    throw new TypeError(`${what} must be a whole number, not ${String(value)}`);
  }
}

/** Throws TypeError for a value that is not a boolean. */
export function checkBoolean(value: boolean, what: string): void {
  if (typeof value !== "boolean") {
    throw new TypeError(`${what} must be true or false, not ${String(value)}`);
  }
}

/** Throws TypeError for a value that is not a string. */
export function checkString(value: string, what: string): void {
  if (typeof value !== "string") {
    throw new TypeError(`${what} must be a string, not ${String(value)}`);
  }
}

const FOR_EVER_S = 1e9;

/** Returns a timeout in seconds: Infinity for null and for more than gRPC can count. Throws TypeError for NaN. */
export function checkedTimeout(timeoutS: number | null): number {
  if (timeoutS === null || timeoutS > FOR_EVER_S) {
    return Infinity;
  }
  if (typeof timeoutS !== "number" || Number.isNaN(timeoutS)) {
    throw new TypeError(`timeout must be a number of seconds, or null, not ${String(timeoutS)}`);
  }
  return timeoutS;
}
