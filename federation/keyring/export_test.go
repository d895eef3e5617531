package keyring

// ParseResponse is parseResponse.
var ParseResponse = parseResponse
