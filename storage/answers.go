package storage

import "github.com/clearbox-im/clearbox"

// KeptAnswer is the answer to one batch of a peer's stream.
type KeptAnswer struct {
	FirstPos int64
	Count    int
	Answer   []byte
}

// Answers gives the kept answers of a stream in order of position, so that a
// position can be answered alike even when it comes back in another batch.
func (tx *Tx) Answers(peer clearbox.ServerName, class Class, stream []byte) ([]KeptAnswer, error) {
	var out []KeptAnswer
	var a KeptAnswer
	var count int64
	err := tx.each("SELECT first_pos, count, answer FROM in_answers WHERE peer = $1 AND class = $2 AND stream = $3 ORDER BY first_pos, slot",
		args(string(peer), string(class), stream), []any{&a.FirstPos, &count, &a.Answer}, func() error {
			a.Count = int(count)
			out = append(out, a)
			return nil
		})
	return out, err
}
