package main

import "context"

func (s *suite) malformed(context.Context) (verdict, error) { panic("x") }
