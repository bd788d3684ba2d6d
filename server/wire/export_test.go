package wire

// The hand-written codec, to be compared with the general one.
var (
	ReadHotClient   = readHotClient
	ReadHotServer   = readHotServer
	AppendHotClient = appendHotClient
	AppendHotServer = appendHotServer
)
