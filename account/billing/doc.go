// Package billing asks Cost Explorer what AWS has billed for a stack: for what has the tag that the stack puts on everything.
//
// A tag counts in Cost Explorer only from the day on which the account has activated it as a cost allocation tag. Each request costs a
// cent, so that nothing here is asked without the operator's word.
package billing
