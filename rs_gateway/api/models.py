"""`/v1/models`: what can be asked for."""

from fastapi import APIRouter, Request

from rs_gateway.api.schemas import ErrorBody, ModelCard, ModelList
from rs_gateway.domain.errors import ModelNotFoundError
from rs_gateway.domain.pools import Catalog
from rs_gateway.serving import Serving

router = APIRouter(tags=["models"])


@router.get("/v1/models", summary="Everything that `model` may name: templates and models")
async def list_models(request: Request) -> ModelList:
    """Templates first-class: ask for one by its id and the gateway picks the model."""
    serving: Serving = request.app.state.serving
    catalog = serving.served.catalog
    return ModelList(data=[_card(name, catalog, request.app.state.started_at) for name in catalog.names()])


@router.get("/v1/models/{name:path}", summary="One of them", responses={404: {"model": ErrorBody}})
async def get_model(name: str, request: Request) -> ModelCard:
    """404 `model_not_found` lists what there is."""
    serving: Serving = request.app.state.serving
    catalog = serving.served.catalog
    if name not in catalog.names():
        raise ModelNotFoundError(name, available=catalog.names())
    return _card(name, catalog, request.app.state.started_at)


def _card(name: str, catalog: Catalog, created: int) -> ModelCard:
    if name in catalog.pools:
        return ModelCard(id=name, created=created, owned_by="route-switch")
    for combination in (*catalog.passthrough.values(), *(c for p in catalog.pools.values() for c in p.combinations)):
        if combination.model == name:
            return ModelCard(id=name, created=created, owned_by=combination.provider)
    return ModelCard(id=name, created=created, owned_by="route-switch")
