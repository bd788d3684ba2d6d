package main

import "context"

func (s *suite) diskfull(context.Context) (verdict, error)  { panic("x") }
func (s *suite) malformed(context.Context) (verdict, error) { panic("x") }
