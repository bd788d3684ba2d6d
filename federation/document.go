package federation

// Document is a server's signed statement about itself. (Fields follow.)
type Document struct {
	Seq int64
}
