// Made by bastion: what is in the VPC goes through its proxy, all else directly.
var proxy = "PROXY";
var names = "NAMES"; // these, and all below them
var below = "BELOW"; // only what is below these
var nets = "NETS";

function FindProxyForURL(url, host) {
  host = host.toLowerCase().replace(/\.$/, "");
  var i, bytes = address(host);
  if (bytes) {
    for (i = 0; i < nets.length; i++) {
      if (contains(nets[i], bytes)) return proxy;
    }
    return "DIRECT";
  }
  for (i = 0; i < names.length; i++) {
    if (host === names[i] || isBelow(host, names[i])) return proxy;
  }
  for (i = 0; i < below.length; i++) {
    if (isBelow(host, below[i])) return proxy;
  }
  return "DIRECT";
}

function isBelow(host, domain) {
  var at = host.length - domain.length - 1;
  return at > 0 && host.substring(at) === "." + domain;
}

// contains says whether the first bits of an address are a network's.
function contains(net, bytes) {
  if (net.bytes.length !== bytes.length) return false;
  for (var bit = 0; bit < net.bits; bit++) {
    var mask = 128 >> (bit % 8), at = bit >> 3;
    if ((net.bytes[at] & mask) !== (bytes[at] & mask)) return false;
  }
  return true;
}

// address returns the bytes of a literal address, or null for a name.
function address(host) {
  if (/^\d+\.\d+\.\d+\.\d+$/.test(host)) return bytes4(host);
  if (host.indexOf(":") < 0) return null;
  return bytes6(host.replace(/^\[|\]$/g, "").replace(/%.*$/, ""));
}

function bytes4(text) {
  var parts = text.split("."), bytes = [];
  for (var i = 0; i < 4; i++) {
    if (parts[i].length > 3 || +parts[i] > 255) return null;
    bytes.push(+parts[i]);
  }
  return bytes;
}

function bytes6(text) {
  var halves = text.split("::");
  if (halves.length > 2) return null;
  var head = groups(halves[0]), tail = halves.length === 2 ? groups(halves[1]) : [];
  if (!head || !tail) return null;
  var missing = 16 - head.length - tail.length;
  if (halves.length === 2 ? missing < 2 : missing !== 0) return null;
  while (missing-- > 0) head.push(0);
  return head.concat(tail);
}

// groups returns the bytes of groups of hexadecimal digits; the last may be an IPv4 address.
function groups(text) {
  if (text === "") return [];
  var parts = text.split(":"), bytes = [];
  for (var i = 0; i < parts.length; i++) {
    if (i === parts.length - 1 && /^\d+\.\d+\.\d+\.\d+$/.test(parts[i])) {
      var v4 = bytes4(parts[i]);
      return v4 && bytes.concat(v4);
    }
    if (!/^[0-9a-f]{1,4}$/.test(parts[i])) return null;
    var n = parseInt(parts[i], 16);
    bytes.push(n >> 8, n & 255);
  }
  return bytes;
}
