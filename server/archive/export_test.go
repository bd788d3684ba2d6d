package archive

// The cursor's two halves, for the fuzz target.
var (
	ParseCursor  = parseCursor
	FormatCursor = formatCursor
)
