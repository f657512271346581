/** Addresses, in gRPC's words. */

import { isIPv4, isIPv6 } from "node:net";

const MAX_PORT = 65535;
const SCHEMES = ["unix:", "dns:", "ipv4:", "ipv6:"];

/** One address as it is, several as gRPC's list of them. Throws RangeError. */
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

/** Whether there may be several servers behind it, which are used in turn. */
export function isSeveral(target: string): boolean {
  return ["ipv4:", "ipv6:", "dns:"].some((scheme) => target.startsWith(scheme));
}

/** Whether it is on this machine for sure. */
export function isLocal(target: string): boolean {
  if (target.startsWith("unix:")) {
    return true;
  }
  const places = target.replace(/^ipv[46]:/, "").split(",");
  return places.map(hostOf).every((host) => {
    return host === "localhost" || host === "::1" || (isIPv4(host) && host.startsWith("127."));
  });
}

/** Throws RangeError for a port that is missing or can't be: gRPC would take another one in silence. */
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
