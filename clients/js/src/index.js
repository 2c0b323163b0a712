/** Client of the Tidegate message broker: `connect`, `publish`, `subscribe`, `consume`, `request`. */

export { Client, connect } from './client.js';
export { TidegateError } from './errors.js';
export { keyFromSeed, keyFromText } from './auth.js';
export { ulid } from './ulid.js';
