package sync

const privateReceipt = "m.read.private"
