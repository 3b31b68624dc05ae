// Addresses of the views, in the part behind #, and back.

const part = encodeURIComponent;

export const hostLink = (id) => `#/host/${part(id)}`;
export const networkLink = (vni) => `#/network/${part(vni)}`;
export const containerLink = (endpoint) => `#/container/${part(endpoint.Vni)}/${part(endpoint.Address ?? endpoint.Address6 ?? endpoint.Id)}`;

export function parts(hash) {
  try {
    return hash.replace(/^#\/?/, "").split("/").map(decodeURIComponent);
  } catch {
    return [""];
  }
}
