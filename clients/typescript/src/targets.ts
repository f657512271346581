/** Turns addresses into gRPC's targets. */

import { isIPv4, isIPv6 } from "node:net";

const MAX_PORT = 65535;
const SCHEMES = ["unix:", "dns:", "ipv4:", "ipv6:"];

/** Returns one address unchanged, and several as a list in gRPC's syntax. Throws RangeError. */
export function targetOf(address: string | readonly string[]): string {
  if (typeof address === "string") {
    return checkedAddress(address);
  }
  if (address.length === 0) {
    throw new RangeError("address is an empty list");
  }
  const places = address.map((each) => checkedAddress(each));
  const families = new Set(places.map((place) => familyOf(hostOf(place))));
  if (families.size > 1) {
    throw new RangeError("several addresses must be all of IPv4 or all of IPv6");
  }
  return `${[...families].join("")}:${places.join(",")}`;
}

/** Whether a target may stand for several servers. */
export function isSeveral(target: string): boolean {
  return ["ipv4:", "ipv6:", "dns:"].some((scheme) => target.startsWith(scheme));
}

/** Whether a target is certainly on this machine. */
export function isLocal(target: string): boolean {
  if (target.startsWith("unix:")) {
    return true;
  }
  const places = target.replace(/^ipv[46]:/, "").split(",");
  return places.map(hostOf).every((host) => {
    return host === "localhost" || host === "::1" || (isIPv4(host) && host.startsWith("127."));
  });
}

/** Throws RangeError for a missing or impossible port, for which gRPC would silently use another. */
function checkedAddress(address: string): string {
  if (SCHEMES.some((scheme) => address.startsWith(scheme))) {
    return address;
  }
  const [, host = "", port = "0"] = /^(.+):([0-9]+)$/.exec(address) ?? [];
  if (host === "" || host.includes("://") || Number(port) < 1 || Number(port) > MAX_PORT) {
    throw new RangeError(`address '${address}' must be HOST:PORT with a port of 1 to ${MAX_PORT}`);
  }
  return address;
}

function hostOf(place: string): string {
  return place.slice(0, place.lastIndexOf(":")).replace(/^\[(.*)\]$/, "$1");
}

function familyOf(host: string): "ipv4" | "ipv6" {
  if (isIPv4(host)) {
    return "ipv4";
  }
  if (isIPv6(host)) {
    return "ipv6";
  }
  const what = "of several addresses each must be IP:PORT; dns:///NAME:PORT finds all of a name";
  throw new RangeError(`'${host}' is no IP address: ${what}`);
}
