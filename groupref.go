package clearbox

// GroupRef says in which state of a group something was sent.
type GroupRef struct {
	ID    GroupID `json:"id"`
	Epoch uint64  `json:"epoch"` // from 1
}
