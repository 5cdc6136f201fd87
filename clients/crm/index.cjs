'use strict';

const { createClient } = require('./lib/client.cjs');
const { CrmError } = require('./lib/error.cjs');
const { sign, signedEvent, signedHeaders } = require('./lib/signature.cjs');

module.exports = { createClient, CrmError, sign, signedHeaders, signedEvent };
