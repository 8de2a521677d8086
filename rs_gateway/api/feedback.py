"""`/v1/feedback`: labels, scores, outcomes and comments that arrive after the answer."""

import time

from fastapi import APIRouter, Request
from ulid import ULID

from rs_gateway.api.schemas import ErrorBody, FeedbackBody, FeedbackReceipt
from rs_gateway.domain.feedback import Feedback, FeedbackKind, check_value
from rs_gateway.domain.ports import TraceStore

# As with chat, a body without a content type is JSON.
router = APIRouter(tags=["feedback"], strict_content_type=False)


@router.post(
    "/v1/feedback",
    status_code=201,
    summary="Say something about an earlier answer",
    responses={400: {"model": ErrorBody}, 404: {"model": ErrorBody}, 503: {"model": ErrorBody}},
)
async def add_feedback(body: FeedbackBody, request: Request) -> FeedbackReceipt:
    """Stored and committed before this answers. A `label` is what the output should have been: it teaches."""
    kind = FeedbackKind(body.kind)
    feedback = Feedback(
        feedback_id=str(ULID()),
        trace_id=body.trace_id,
        kind=kind,
        value=check_value(kind, body.value),
        source=body.source,
        created_at=time.time(),
    )
    store: TraceStore = request.app.state.traces
    await store.add_feedback(feedback)
    return FeedbackReceipt(feedback_id=feedback.feedback_id, trace_id=feedback.trace_id)
